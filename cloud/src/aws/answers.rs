//! What EC2 answers, into instances and volumes.
//!
//! An instance without an id, a known state or a launch time is an error and not a gap in the list: who compares lists would take
//! what is missing for gone, and what has no age for old.

use super::xml::Node;
use crate::{Instance, InstanceId, InstanceState, Tags, Volume, VolumeId, VolumeState};

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("an {0} has no id")]
    NoId(&'static str),
    #[error("{id} is in the state {state:?}, which is not known")]
    State { id: String, state: String },
    #[error("{id} has the time {time:?}, which is not one")]
    Time { id: String, time: String },
    #[error("the answer is a {0}")]
    Other(String),
}

/// The instances in a DescribeInstances answer.
pub(super) fn described_instances(root: &Node<'_>) -> Result<Vec<Instance>, AnswerError> {
    expect(root, "DescribeInstancesResponse")?;
    root.items("reservationSet")
        .flat_map(|reservation| reservation.items("instancesSet"))
        .map(instance)
        .collect()
}

/// The instances in a RunInstances answer.
pub(super) fn launched_instances(root: &Node<'_>) -> Result<Vec<Instance>, AnswerError> {
    expect(root, "RunInstancesResponse")?;
    root.items("instancesSet").map(instance).collect()
}

/// The volumes in a DescribeVolumes answer.
pub(super) fn described_volumes(root: &Node<'_>) -> Result<Vec<Volume>, AnswerError> {
    expect(root, "DescribeVolumesResponse")?;
    root.items("volumeSet").map(volume).collect()
}

/// The volume in a CreateVolume answer.
pub(super) fn created_volume(root: &Node<'_>) -> Result<Volume, AnswerError> {
    expect(root, "CreateVolumeResponse")?;
    volume(root)
}

/// Where the next page begins, if there is one.
pub(super) fn next_page<'n>(root: &'n Node<'_>) -> Option<&'n str> {
    Some(root.text_at(&["nextToken"]).trim()).filter(|token| !token.is_empty())
}

/// Anything else that answers with 200, such as a proxy's page, is not an empty list.
pub(super) fn expect(root: &Node<'_>, name: &str) -> Result<(), AnswerError> {
    if root.name == name {
        Ok(())
    } else {
        Err(AnswerError::Other(root.name.to_owned()))
    }
}

fn instance(node: &Node<'_>) -> Result<Instance, AnswerError> {
    let id = id(node, "instanceId", "instance")?;
    let state = match node.text_at(&["instanceState", "name"]).trim() {
        "pending" => InstanceState::Pending,
        "running" => InstanceState::Running,
        "stopping" => InstanceState::Stopping,
        "stopped" => InstanceState::Stopped,
        "shutting-down" => InstanceState::ShuttingDown,
        "terminated" => InstanceState::Terminated,
        state => {
            let state = state.to_owned();
            return Err(AnswerError::State { id, state });
        }
    };
    let reason = match node.text_at(&["stateReason", "message"]) {
        "" => node.text_at(&["reason"]),
        message => message,
    };
    Ok(Instance {
        state,
        instance_type: node.text_at(&["instanceType"]).to_owned(),
        zone: node.text_at(&["placement", "availabilityZone"]).to_owned(),
        private_dns_name: node.text_at(&["privateDnsName"]).to_owned(),
        client_token: node.text_at(&["clientToken"]).to_owned(),
        launched_at: time(&id, node.text_at(&["launchTime"]))?,
        reason: super::words::one_line(reason),
        tags: tags(node),
        id: InstanceId(id),
    })
}

fn volume(node: &Node<'_>) -> Result<Volume, AnswerError> {
    let id = id(node, "volumeId", "EBS volume")?;
    let attached = node
        .items("attachmentSet")
        .find(|attachment| attachment.text_at(&["status"]).trim() != "detached")
        .map(|attachment| InstanceId(attachment.text_at(&["instanceId"]).to_owned()));
    let state = match (node.text_at(&["status"]).trim(), attached) {
        ("creating", _) => VolumeState::Creating,
        ("deleting" | "deleted", _) => VolumeState::Deleting,
        ("error", _) => VolumeState::Error,
        // While it is being attached or detached, either word can stand there.
        ("available" | "in-use", Some(instance)) => VolumeState::InUse(instance),
        ("available", None) => VolumeState::Available,
        ("in-use", None) => VolumeState::InUse(InstanceId(String::new())),
        (state, _) => {
            let state = state.to_owned();
            return Err(AnswerError::State { id, state });
        }
    };
    Ok(Volume {
        zone: node.text_at(&["availabilityZone"]).to_owned(),
        state,
        created_at: time(&id, node.text_at(&["createTime"]))?,
        tags: tags(node),
        id: VolumeId(id),
    })
}

fn id(node: &Node<'_>, name: &str, what: &'static str) -> Result<String, AnswerError> {
    match node.text_at(&[name]).trim() {
        "" => Err(AnswerError::NoId(what)),
        id => Ok(id.to_owned()),
    }
}

/// Seconds since 1970 of a time such as `2026-11-21T12:00:00.000Z`.
fn time(id: &str, text: &str) -> Result<u64, AnswerError> {
    text.trim()
        .parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_second()).ok())
        .ok_or_else(|| AnswerError::Time {
            id: id.to_owned(),
            time: text.to_owned(),
        })
}

fn tags(node: &Node<'_>) -> Tags {
    node.items("tagSet")
        .map(|tag| {
            (
                tag.text_at(&["key"]).to_owned(),
                tag.text_at(&["value"]).to_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::xml::parse;
    use super::*;

    const INSTANCES: &str = include_str!("testdata/describe-instances.xml");
    const LAUNCHED: &str = include_str!("testdata/run-instances.xml");
    const VOLUMES: &str = include_str!("testdata/describe-volumes.xml");
    const CREATED: &str = include_str!("testdata/create-volume.xml");

    #[test]
    fn instances() {
        let root = parse(INSTANCES.as_bytes()).unwrap();
        let all = described_instances(&root).unwrap();
        let states: Vec<_> = all.iter().map(|i| (i.id.0.as_str(), i.state)).collect();
        assert_eq!(
            states,
            [
                ("i-0aaaaaaaaaaaaaaa1", InstanceState::Running),
                ("i-0aaaaaaaaaaaaaaa2", InstanceState::Stopped),
                ("i-0aaaaaaaaaaaaaaa3", InstanceState::Terminated),
            ]
        );
        let first = &all[0];
        assert_eq!(first.instance_type, "r7iz.4xlarge");
        assert_eq!(first.zone, "us-east-2b");
        assert_eq!(
            first.private_dns_name,
            "ip-10-0-12-34.us-east-2.compute.internal"
        );
        assert_eq!(first.client_token, "halo-6f2d");
        assert_eq!(first.launched_at, 1_795_262_405);
        assert_eq!(first.reason, "");
        assert_eq!(
            first.tags.get("Name").map(String::as_str),
            Some("a <b> & \"c\"")
        );
        assert_eq!(first.tags.get("empty").map(String::as_str), Some(""));
        assert_eq!(
            all[1].reason,
            "Client.UserInitiatedShutdown: User initiated shutdown"
        );
        assert_eq!(
            all[2].reason,
            "Server.SpotInstanceTermination: no longer there"
        );
        assert_eq!(all[2].private_dns_name, "");
        assert_eq!(next_page(&root), Some("eyJ2IjoiMiIsInMiOiIxIn0="));
    }

    #[test]
    fn a_launch() {
        let root = parse(LAUNCHED.as_bytes()).unwrap();
        let all = launched_instances(&root).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].state, InstanceState::Pending);
        assert_eq!(all[0].id.0, "i-0bbbbbbbbbbbbbbb1");
        assert_eq!(next_page(&root), None);
        // The one answer is not taken for the other.
        assert_eq!(
            described_instances(&root),
            Err(AnswerError::Other("RunInstancesResponse".to_owned()))
        );
    }

    #[test]
    fn volumes() {
        let root = parse(VOLUMES.as_bytes()).unwrap();
        let all = described_volumes(&root).unwrap();
        let in_use = |id: &str| VolumeState::InUse(InstanceId(id.to_owned()));
        let states: Vec<_> = all.iter().map(|v| v.state.clone()).collect();
        assert_eq!(
            states,
            [
                VolumeState::Available,
                in_use("i-0aaaaaaaaaaaaaaa1"),
                in_use("i-0aaaaaaaaaaaaaaa2"),
                in_use(""),
                VolumeState::Deleting,
                VolumeState::Error,
                VolumeState::Available,
            ]
        );
        assert_eq!(all[0].zone, "us-east-2a");
        assert_eq!(all[0].created_at, 1_795_262_400);
        assert_eq!(all[0].tags.len(), 2);

        let made = created_volume(&parse(CREATED.as_bytes()).unwrap()).unwrap();
        assert_eq!(made.id.0, "vol-0cccccccccccccccc");
        assert_eq!(made.state, VolumeState::Creating);
    }

    #[test]
    fn what_is_missing_is_not_guessed() {
        let item = |inside: &str| {
            let text = format!(
                "<DescribeInstancesResponse><reservationSet><item><instancesSet><item>{inside}</item></instancesSet></item></reservationSet></DescribeInstancesResponse>"
            );
            described_instances(&parse(text.as_bytes()).unwrap()).map(|all| all.len())
        };
        let id = "<instanceId>i-1</instanceId>";
        let state = "<instanceState><code>16</code><name>running</name></instanceState>";
        let time = "<launchTime>2026-11-21T12:00:05.000Z</launchTime>";
        assert_eq!(item(&format!("{id}{state}{time}")), Ok(1));
        assert_eq!(
            item(&format!("{state}{time}")),
            Err(AnswerError::NoId("instance"))
        );
        assert!(matches!(
            item(&format!("{id}{time}")),
            Err(AnswerError::State { .. })
        ));
        assert!(matches!(
            item(&format!("{id}{state}")),
            Err(AnswerError::Time { .. })
        ));
        for bad in ["yesterday", "1960-01-01T00:00:00Z", "2026-13-01T00:00:00Z"] {
            let time = format!("<launchTime>{bad}</launchTime>");
            assert!(
                matches!(
                    item(&format!("{id}{state}{time}")),
                    Err(AnswerError::Time { .. })
                ),
                "{bad}"
            );
        }
        let odd = "<instanceState><name>sleeping</name></instanceState>";
        assert_eq!(
            item(&format!("{id}{odd}{time}")),
            Err(AnswerError::State {
                id: "i-1".to_owned(),
                state: "sleeping".to_owned()
            })
        );
        let page = parse(b"<html><body>gateway</body></html>").unwrap();
        assert_eq!(
            described_volumes(&page),
            Err(AnswerError::Other("html".to_owned()))
        );
        let empty =
            parse(b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>")
                .unwrap();
        assert_eq!(described_instances(&empty), Ok(vec![]));
    }
}
