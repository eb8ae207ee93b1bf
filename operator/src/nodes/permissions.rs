//! Whether the operator may do what pools need, asked before it is needed.
//!
//! Pools whose launches differ in nothing that IAM looks at share one question, so that a thousand of them cost one. Nobody waits for an
//! answer: it is asked in the background, and the substrates that it is news for look again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halo_cloud::{Failure, InstanceId};
use halo_crds::pool::Ec2Pool;
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::act::invalid;
use super::launch::Template;
use super::plan::PoolBlock;
use super::slots::{after, stamp};
use crate::context::Context;

/// Which IAM actions pools lack.
#[derive(Default)]
pub struct Permissions {
    questions: Mutex<BTreeMap<String, Question>>,
    news: Notify,
}

/// What is asked for all pools that share it.
struct Question {
    template: Template,
    /// An instance to ask about: who may stop and end only what carries a tag cannot be asked about nothing.
    instance: Option<InstanceId>,
    /// Substrates that wait for the answer.
    uids: BTreeSet<String>,
    /// A launch was refused since it was asked.
    doubted: bool,
    answer: Option<Answer>,
}

struct Answer {
    asked_at: Timestamp,
    with_instance: bool,
    /// `None` if it could not be told.
    missing: Option<Vec<String>>,
}

impl Question {
    fn is_due(&self, now: Timestamp, again: Duration) -> bool {
        let Some(answer) = &self.answer else {
            return true;
        };
        let unsettled = self.doubted || answer.missing.as_ref().is_none_or(|m| !m.is_empty());
        self.instance.is_some() && !answer.with_instance
            || unsettled && now >= after(answer.asked_at, again)
    }
}

impl Permissions {
    /// What a pool may not do, as a block whose message names the IAM actions; `None` if it may do everything or if that is not known
    /// yet. `template` is called if it has not been asked before; `refused` says that the cloud has just refused something.
    pub fn look(
        &self,
        uid: &str,
        spec: &Ec2Pool,
        instance: Option<&InstanceId>,
        refused: bool,
        template: impl FnOnce() -> Option<Template>,
    ) -> Option<PoolBlock> {
        let mut questions = self.questions();
        let key = what_iam_sees(spec);
        if !questions.contains_key(&key) {
            let question = Question {
                template: template()?,
                instance: None,
                uids: BTreeSet::new(),
                doubted: false,
                answer: None,
            };
            questions.insert(key.clone(), question);
            self.news.notify_one();
        }
        let question = questions.get_mut(&key)?;
        question.uids.insert(uid.to_owned());
        if question.instance.is_none() && instance.is_some() {
            question.instance = instance.cloned();
            self.news.notify_one();
        }
        if refused && !question.doubted {
            question.doubted = true;
            self.news.notify_one();
        }
        let missing = question.answer.as_ref()?.missing.as_ref()?;
        (!missing.is_empty()).then(|| PoolBlock {
            reason: Failure::Unauthorized.name().to_owned(),
            message: format!(
                "UnauthorizedOperation: IAM denies {}: let the operator's role do it",
                missing.join(", ")
            ),
            next_attempt: None,
        })
    }

    /// Forgets a substrate that is gone.
    pub fn forget(&self, uid: &str) {
        self.questions().retain(|_, question| {
            question.uids.remove(uid);
            !question.uids.is_empty()
        });
    }

    /// Asks what is not known, for ever; `told` is called with the uid of each substrate that an answer is news for.
    pub async fn run(&self, ctx: &Context, told: impl Fn(&str)) {
        let again = ctx.settings.pace.launch_backoff_max;
        loop {
            let now = ctx.clock.now();
            let due: Vec<_> = self
                .questions()
                .iter()
                .filter(|(_, question)| question.is_due(now, again))
                .map(|(key, q)| (key.clone(), q.template.clone(), q.instance.clone()))
                .collect();
            for (key, template, instance) in due {
                let missing = ask(ctx, &template, instance.as_ref(), now).await;
                let answer = Answer {
                    asked_at: ctx.clock.now(),
                    with_instance: instance.is_some(),
                    missing,
                };
                self.settle(&key, answer).iter().for_each(|uid| told(uid));
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Takes in an answer; the substrates that it is news for.
    fn settle(&self, key: &str, answer: Answer) -> Vec<String> {
        let mut questions = self.questions();
        let Some(question) = questions.get_mut(key) else {
            return Vec::new();
        };
        let lacks = |answer: &Answer| answer.missing.clone().unwrap_or_default();
        let before = question.answer.as_ref().map(lacks).unwrap_or_default();
        let is_news = before != lacks(&answer);
        question.doubted = false;
        question.answer = Some(answer);
        match is_news {
            true => question.uids.iter().cloned().collect(),
            false => Vec::new(),
        }
    }

    fn questions(&self) -> MutexGuard<'_, BTreeMap<String, Question>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything of a pool that an IAM policy can make a difference by.
fn what_iam_sees(spec: &Ec2Pool) -> String {
    let Ec2Pool {
        instance_types,
        subnets,
        tenancy,
        image,
        security_groups,
        instance_profile,
        root_volume,
        data_volume,
        tags,
        ..
    } = spec;
    let keys = (
        &root_volume.kms_key,
        data_volume.as_ref().map(|volume| &volume.kms_key),
    );
    format!(
        "{instance_types:?} {subnets:?} {tenancy:?} {image:?} {security_groups:?} {instance_profile} {keys:?} {tags:?}"
    )
}

/// The IAM actions that a pool lacks; `None` if that cannot be told now, which a launch will tell.
async fn ask(
    ctx: &Context,
    template: &Template,
    instance: Option<&InstanceId>,
    now: Timestamp,
) -> Option<Vec<String>> {
    let (instance_type, zone) = template.first_place();
    let slot = NodeSlot {
        slot: 0,
        attempt: 0,
        generation: 0,
        template: template.hash().to_owned(),
        state: NodeState::Launching,
        since: stamp(now),
        instance_type,
        zone,
        instance: None,
        volume: None,
        node: None,
        volume_since: None,
        running_since: None,
    };
    let asked = async {
        let image = ctx.cloud.resolve_image(template.image()).await?;
        let request = template.probe(&slot, &image);
        let request = request.map_err(|error| invalid("RunInstances", &error))?;
        ctx.cloud.missing_permissions(&request, instance).await
    };
    match asked.await {
        Ok(missing) => Some(missing),
        Err(error) => {
            tracing::debug!(%error, "permissions cannot be asked for");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::launch::Identity;
    use crate::nodes::testing;

    fn template() -> Option<Template> {
        let identity = Identity {
            uid: "uid".to_owned(),
            namespace: "halo-acme".to_owned(),
            name: "qwen".to_owned(),
            tenant: "acme".to_owned(),
        };
        let settings = crate::substrate::testing::settings();
        Template::new(&identity, &testing::spec(), &settings).ok()
    }

    fn answer(missing: &[&str], second: i64, with_instance: bool) -> Answer {
        Answer {
            asked_at: testing::at(second),
            with_instance,
            missing: Some(missing.iter().map(|one| (*one).to_owned()).collect()),
        }
    }

    fn due(permissions: &Permissions, second: i64) -> Vec<String> {
        let (now, again) = (testing::at(second), Duration::from_secs(60));
        let questions = permissions.questions();
        let due = questions.iter().filter(|(_, q)| q.is_due(now, again));
        due.map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn pools_that_iam_cannot_tell_apart_share_a_question() {
        let permissions = Permissions::default();
        let spec = testing::spec();
        for uid in ["a", "b"] {
            assert_eq!(permissions.look(uid, &spec, None, false, template), None);
        }
        let mut other = spec.clone();
        other.instance_profile = "another".to_owned();
        permissions.look("c", &other, None, false, template);
        let all = due(&permissions, 0);
        assert_eq!(all.len(), 2);
        let key = what_iam_sees(&spec);
        assert_eq!(
            permissions.settle(&key, answer(&["ec2:RunInstances"], 0, false)),
            ["a", "b"]
        );
        let block = permissions.look("a", &spec, None, false, || None).unwrap();
        assert!(block.message.contains("ec2:RunInstances"), "{block:?}");
        assert_eq!(permissions.look("c", &other, None, false, || None), None);
        for uid in ["a", "b", "c"] {
            permissions.forget(uid);
        }
        assert!(permissions.questions().is_empty());
    }

    #[test]
    fn what_is_asked_again_and_when() {
        let permissions = Permissions::default();
        let spec = testing::spec();
        let key = what_iam_sees(&spec);
        let look = |instance: Option<&InstanceId>, refused| {
            permissions.look("a", &spec, instance, refused, template)
        };
        look(None, false);
        let asked = |permissions: &Permissions, second| !due(permissions, second).is_empty();
        assert!(asked(&permissions, 0));
        assert!(permissions.settle(&key, answer(&[], 0, false)).is_empty());
        assert!(!asked(&permissions, 1_000_000), "all is permitted");
        // An instance to ask about.
        look(Some(&testing::id(1)), false);
        assert!(asked(&permissions, 1));
        let news = permissions.settle(&key, answer(&["ec2:StopInstances"], 1, true));
        assert_eq!(news, ["a"]);
        assert!(!asked(&permissions, 60), "not at once");
        assert!(asked(&permissions, 61), "somebody may have permitted it");
        assert_eq!(permissions.settle(&key, answer(&[], 61, true)), ["a"]);
        // The cloud refuses something all the same.
        look(None, true);
        assert!(!asked(&permissions, 62));
        assert!(asked(&permissions, 121));
    }
}
