//! The lease against a server that keeps one object and its version.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::testing::{Asked, Fake, settings, status};
use super::*;
use crate::clock::SystemClock;

/// A server with one lease.
#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    down: bool,
}

impl Server {
    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        if self.down {
            return status(500, "InternalError", "etcd is away");
        }
        match asked.method.as_str() {
            "GET" => match &self.lease {
                Some(lease) => (200, lease.clone()),
                None => status(404, "NotFound", "no lease"),
            },
            "POST" if self.lease.is_some() => status(409, "AlreadyExists", "there"),
            "PUT"
                if self
                    .lease
                    .as_ref()
                    .map(|one| &one["metadata"]["resourceVersion"])
                    != Some(&asked.body["metadata"]["resourceVersion"]) =>
            {
                status(409, "Conflict", "modified")
            }
            _ => {
                self.version += 1;
                let mut lease = asked.body.clone();
                lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.lease = Some(lease.clone());
                (200, lease)
            }
        }
    }
}

struct One {
    leading: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<End>,
    metrics: Arc<Metrics>,
}

fn candidate(fake: &Fake, me: &str) -> One {
    let (lead, leading) = watch::channel(false);
    let metrics = Arc::new(Metrics::new().unwrap());
    let mut settings = settings(me);
    settings.lease.duration = Duration::from_secs(2);
    settings.lease.renew_every = Duration::from_millis(100);
    let election = Election::new(
        fake.clients().once,
        &settings,
        Arc::new(SystemClock),
        metrics.clone(),
        lead,
    );
    let stop = CancellationToken::new();
    One {
        leading,
        task: tokio::spawn(election.run(stop.clone())),
        stop,
        metrics,
    }
}

async fn leads(one: &One) {
    let mut leading = one.leading.clone();
    let wait = leading.wait_for(|leading| *leading);
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap()
        .unwrap();
}

async fn server() -> (Fake, Arc<Mutex<Server>>) {
    let server: Arc<Mutex<Server>> = Arc::default();
    let answers = server.clone();
    let fake = Fake::start(move |asked| Some(answers.lock().unwrap().answer(asked))).await;
    (fake, server)
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let (fake, server) = server().await;
    let first = candidate(&fake, "first");
    leads(&first).await;
    let second = candidate(&fake, "second");
    let renewals = server.lock().unwrap().version;
    while server.lock().unwrap().version < renewals + 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!*second.leading.borrow());
    let line = r#"leader_election_master_status{name="halo-operator"} 1"#;
    assert!(first.metrics.text().unwrap().contains(line));
    assert!(!second.metrics.text().unwrap().contains(line));
    first.stop.cancel();
    assert_eq!(first.task.await.unwrap(), End::Released);
    assert!(!*first.leading.borrow());
    leads(&second).await;
    let lease = server.lock().unwrap().lease.clone().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    second.stop.cancel();
    second.task.await.unwrap();
}

#[tokio::test]
async fn a_leader_that_cannot_renew_ends_and_another_follows() {
    let (fake, server) = server().await;
    let first = candidate(&fake, "first");
    leads(&first).await;
    server.lock().unwrap().down = true;
    let second = candidate(&fake, "second");
    assert!(matches!(first.task.await.unwrap(), End::Lost(_)));
    assert!(!*first.leading.borrow());
    assert!(!*second.leading.borrow());
    server.lock().unwrap().down = false;
    leads(&second).await;
    second.task.abort();
}

#[tokio::test]
async fn a_leader_whose_lease_another_took_ends() {
    let (fake, server) = server().await;
    let first = candidate(&fake, "first");
    leads(&first).await;
    {
        let mut server = server.lock().unwrap();
        server.version += 1;
        let version = server.version.to_string();
        let lease = server.lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = json!(version);
        lease["spec"]["holderIdentity"] = json!("another");
    }
    assert!(matches!(first.task.await.unwrap(), End::Lost(_)));
    assert!(!*first.leading.borrow());
}
