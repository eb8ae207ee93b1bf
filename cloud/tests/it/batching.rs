//! Starting, stopping and ending many at once.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use halo_cloud::{Cloud as _, CloudError, Failure, InstanceId};

use crate::script::{Clients, Reply, Seen, Server, clients, settings};

/// With time enough to collect whatever a test asks for in one go.
async fn start(
    script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
) -> (Server, Clients) {
    let server = Server::new(script).await;
    let mut settings = settings(&server.url);
    settings.timing.batch = Duration::from_millis(60);
    let clients = clients(settings);
    (server, clients)
}

fn ids(range: std::ops::Range<u32>) -> Vec<InstanceId> {
    range.map(|n| InstanceId(format!("i-{n:04}"))).collect()
}

async fn stop_all(clients: &Clients, ids: &[InstanceId]) -> Vec<Result<(), CloudError>> {
    join_all(ids.iter().map(|id| clients.cloud.stop(id))).await
}

#[tokio::test]
async fn many_in_one_call() {
    let (server, clients) = start(|_, seen| Reply::done(seen)).await;
    let twenty = ids(0..20);
    // The same one twice is one.
    let stopped = stop_all(&clients, &[&twenty[..], &twenty[..3]].concat()).await;
    assert!(stopped.iter().all(Result::is_ok), "{stopped:?}");
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].action(), "StopInstances");
    let sent: BTreeSet<_> = seen[0].list("InstanceId").into_iter().collect();
    assert_eq!(sent, twenty.iter().map(|id| id.0.clone()).collect());
    assert_eq!(
        *clients.watch.batches.lock().unwrap(),
        [("StopInstances", 20)]
    );

    // Each action has a call of its own.
    let (started, ended) = tokio::join!(
        clients.cloud.start(&twenty[0]),
        clients.cloud.terminate(&twenty[1])
    );
    assert!(started.is_ok() && ended.is_ok());
    let actions: BTreeSet<_> = server.actions().into_iter().skip(1).collect();
    assert_eq!(
        actions,
        ["StartInstances", "TerminateInstances"]
            .map(str::to_owned)
            .into()
    );
}

#[tokio::test]
async fn very_many_in_some_calls() {
    let (server, clients) = start(|_, seen| Reply::done(seen)).await;
    let stopped = stop_all(&clients, &ids(0..450)).await;
    assert!(stopped.iter().all(Result::is_ok));
    let sizes: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.list("InstanceId").len())
        .collect();
    assert_eq!(sizes, [200, 200, 50]);
}

#[tokio::test]
async fn what_is_gone_does_not_hold_up_the_others() {
    let (server, clients) = start(|_, seen| {
        let gone: Vec<_> = seen
            .list("InstanceId")
            .into_iter()
            .filter(|id| ["i-0003", "i-0007"].contains(&id.as_str()))
            .collect();
        if gone.is_empty() {
            Reply::done(seen)
        } else {
            let message = format!("The instance IDs '{}' do not exist", gone.join(", "));
            Reply::error(400, "InvalidInstanceID.NotFound", &message)
        }
    })
    .await;
    let ten = ids(0..10);
    let ended = join_all(ten.iter().map(|id| clients.cloud.terminate(id))).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_eq!(server.seen().len(), 2);

    // Stopping what is gone is an error, of that one alone.
    let stopped = stop_all(&clients, &ten).await;
    for (id, result) in ten.iter().zip(&stopped) {
        let gone = ["i-0003", "i-0007"].contains(&id.0.as_str());
        let failure = result.as_ref().err().map(|error| error.failure);
        assert_eq!(failure, gone.then_some(Failure::NotFound), "{id}");
    }
}

#[tokio::test]
async fn one_bad_id_is_found_among_many() {
    // The message names none, so it takes halving.
    let (server, clients) = start(|_, seen| {
        if seen.list("InstanceId").contains(&"i-0042".to_owned()) {
            Reply::error(
                400,
                "IncorrectInstanceState",
                "An instance is not in a state from which it can be stopped.",
            )
        } else {
            Reply::done(seen)
        }
    })
    .await;
    let hundred = ids(0..100);
    for (id, result) in hundred.iter().zip(stop_all(&clients, &hundred).await) {
        match result {
            Ok(()) => assert_ne!(id.0, "i-0042"),
            Err(error) => assert_eq!((id.0.as_str(), error.failure), ("i-0042", Failure::State)),
        }
    }
    let calls = server.seen().len();
    assert!((10..=16).contains(&calls), "{calls}");
}

#[tokio::test]
async fn a_missing_permission_does_not_cost_a_call_each() {
    let (server, clients) = start(|_, _| Reply::error(403, "UnauthorizedOperation", "no")).await;
    let stopped = stop_all(&clients, &ids(0..200)).await;
    for result in stopped {
        assert_eq!(result.unwrap_err().failure, Failure::Unauthorized);
    }
    let calls = server.seen().len();
    assert!(calls <= 40, "{calls}");
}

#[tokio::test]
async fn not_found_is_said_only_of_what_is_not() {
    // An endpoint whose message names nobody: every id is asked about by itself before it is called gone.
    let (_server, clients) = start(|_, seen| {
        let odd = |id: &String| id.ends_with(['1', '3', '5', '7', '9']);
        if seen.list("InstanceId").iter().any(odd) {
            Reply::error(400, "InvalidInstanceID.NotFound", "no such instance")
        } else {
            Reply::done(seen)
        }
    })
    .await;
    let forty = ids(0..40);
    for (n, result) in stop_all(&clients, &forty).await.into_iter().enumerate() {
        assert_eq!(result.is_ok(), n % 2 == 0, "{n}: {result:?}");
    }
}

#[tokio::test]
async fn once_asked_for_it_is_done() {
    let (server, clients) = start(|_, seen| Reply::done(seen)).await;
    let cloud = clients.cloud.clone();
    let caller = tokio::spawn(async move { cloud.terminate(&InstanceId("i-1".to_owned())).await });
    // It has asked, and goes away before the call is made.
    tokio::task::yield_now().await;
    caller.abort();
    assert!(caller.await.is_err());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while server.seen().is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the call was never made"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.seen()[0].list("InstanceId"), ["i-1"]);
}
