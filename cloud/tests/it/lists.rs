//! Lists: pages, filters, and one call for all who ask the same.

use halo_cloud::{Cloud as _, Failure, InstanceState};

use crate::script::{Reply, Server, clients, described, instance, settings, tags};

#[tokio::test]
async fn all_pages_are_read() {
    let server = Server::new(|_, seen| {
        let one = |id: &str| instance(id, "running", &[("k", "v")]);
        match seen.get("NextToken") {
            "" => described(&(one("i-1") + &one("i-2")), "page/2=="),
            "page/2==" => described("", "page 3"),
            "page 3" => described(&one("i-3"), ""),
            _ => Reply::Close,
        }
    })
    .await;
    let clients = clients(settings(&server.url));
    let found = clients.cloud.instances(&tags(&[("k", "v")])).await.unwrap();
    let ids: Vec<_> = found
        .iter()
        .map(|instance| instance.id.0.as_str())
        .collect();
    assert_eq!(ids, ["i-1", "i-2", "i-3"]);
    for seen in server.seen() {
        assert_eq!(seen.get("Filter.1.Name"), "tag:k");
        assert_eq!(seen.get("MaxResults"), "500");
    }
}

#[tokio::test]
async fn a_list_that_does_not_end_is_an_error() {
    let server = Server::new(|_, _| described("", "again")).await;
    let clients = clients(settings(&server.url));
    let error = clients.cloud.instances(&tags(&[])).await.unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Unreachable, "MalformedAnswer")
    );
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn what_does_not_carry_the_tags_is_not_ours() {
    // An endpoint that ignores filters.
    let server = Server::new(|_, _| {
        let all = [
            instance("i-1", "running", &[("cluster", "a*"), ("other", "x")]),
            instance("i-2", "running", &[("cluster", "ab")]),
            instance("i-3", "running", &[]),
        ];
        described(&all.concat(), "")
    })
    .await;
    let clients = clients(settings(&server.url));
    let found = clients
        .cloud
        .instances(&tags(&[("cluster", "a*")]))
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id.0, "i-1");
    assert_eq!(server.seen()[0].get("Filter.1.Value.1"), "a\\*");
}

#[tokio::test]
async fn the_same_list_is_asked_for_once() {
    let server = Server::new(|_, seen| {
        let (key, value) = (
            seen.get("Filter.1.Name").trim_start_matches("tag:"),
            seen.get("Filter.1.Value.1"),
        );
        described(
            &instance(&format!("i-{value}"), "running", &[(key, value)]),
            "",
        )
    })
    .await;
    let clients = clients(settings(&server.url));
    let (a, b) = (tags(&[("k", "a")]), tags(&[("k", "b")]));
    let found = tokio::join!(
        clients.cloud.instances(&a),
        clients.cloud.instances(&a),
        clients.cloud.instances(&b),
        clients.cloud.instances(&a),
    );
    let ids = [found.0, found.1, found.2, found.3].map(|found| found.unwrap()[0].id.0.clone());
    assert_eq!(ids, ["i-a", "i-a", "i-b", "i-a"]);
    assert_eq!(server.seen().len(), 2);
    // Later it is asked anew.
    assert!(clients.cloud.instances(&a).await.is_ok());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn the_instance_of_a_token() {
    let server = Server::new(|_, seen| match seen.get("Filter.1.Value.1") {
        "t-1" => described(
            &(instance("i-old", "terminated", &[]) + &instance("i-new", "pending", &[])),
            "",
        ),
        // An endpoint that does not know the filter answers with someone else's.
        _ => described(&instance("i-old", "running", &[]), ""),
    })
    .await;
    let clients = clients(settings(&server.url));
    let found = clients
        .cloud
        .instance_by_token("t-1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.id.0.as_str(), found.state),
        ("i-new", InstanceState::Pending)
    );
    assert_eq!(server.seen()[0].get("Filter.1.Name"), "client-token");
    assert_eq!(clients.cloud.instance_by_token("t-2").await, Ok(None));
}
