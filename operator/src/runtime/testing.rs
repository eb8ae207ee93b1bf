//! An API server of a few lines for tests: it remembers what it was asked, and answers as the test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::apply::{Clients, Writer};
use super::caches::{Caches, ContentKey};
use super::metrics::Metrics;
use crate::effect::{Effect, Witness};
use crate::settings::{ClusterJoin, LeaseSettings, Pace, PodDefaults, Settings};

/// What the server was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Value,
}

/// Status code and body.
pub type Answer = (u16, Value);

type Answers = Arc<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

/// The server. It ends with this value.
pub struct Fake {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// A server that answers so; never if there is no answer.
    pub async fn start(answers: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state: (Answers, _) = (Arc::new(answers), asked.clone());
        let router = axum::Router::new().fallback(answer).with_state(state);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            asked,
            task,
        }
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn config(&self) -> kube::Config {
        // Not an error if another test was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        kube::Config::new(format!("http://{}", self.address).parse().unwrap())
    }

    pub fn clients(&self) -> Clients {
        Clients::new(&self.config()).unwrap()
    }
}

async fn answer(
    State((answers, asked)): State<(Answers, Arc<Mutex<Vec<Asked>>>)>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let one = Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    asked.lock().unwrap().push(one.clone());
    match answers(&one) {
        Some((code, body)) => {
            let code = axum::http::StatusCode::from_u16(code).unwrap();
            (code, axum::Json(body)).into_response()
        }
        None => std::future::pending().await,
    }
}

/// A failure as the API server writes it.
pub fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message});
    (code, body)
}

/// Remembers effects.
#[derive(Default)]
pub struct Recorder(pub Mutex<Vec<(Effect, Option<bool>)>>);

#[async_trait]
impl Witness for Recorder {
    async fn before(&self, effect: &Effect) {
        self.0.lock().unwrap().push((effect.clone(), None));
    }

    async fn after(&self, effect: &Effect, succeeded: bool) {
        self.0
            .lock()
            .unwrap()
            .push((effect.clone(), Some(succeeded)));
    }
}

/// A writer to the server, and what it works with.
pub struct Desk {
    pub writer: Writer,
    pub caches: Arc<Caches>,
    pub metrics: Arc<Metrics>,
    pub witness: Arc<Recorder>,
    pub lead: watch::Sender<bool>,
}

pub fn caches() -> Arc<Caches> {
    Arc::new(Caches::new(ContentKey::random().unwrap(), 1))
}

pub fn desk(fake: &Fake, deadline: Duration) -> Desk {
    let (lead, leading) = watch::channel(true);
    let (caches, metrics) = (caches(), Arc::new(Metrics::new().unwrap()));
    let witness = Arc::new(Recorder::default());
    Desk {
        writer: Writer::new(
            fake.clients(),
            caches.clone(),
            witness.clone(),
            metrics.clone(),
            leading,
            deadline,
        ),
        caches,
        metrics,
        witness,
        lead,
    }
}

/// What an operator of this name is told.
pub fn settings(identity: &str) -> Settings {
    Settings {
        cluster: "test".to_owned(),
        join: ClusterJoin::default(),
        region: "us-east-2".to_owned(),
        namespace: "halo-system".to_owned(),
        identity: identity.to_owned(),
        substrate_image: "substrate".to_owned(),
        substrate_pods: PodDefaults::default(),
        metrics_namespaces: Vec::new(),
        gateway_pod_labels: BTreeMap::new(),
        gateway_namespace: "halo-system".to_owned(),
        concurrency: 4,
        prices: BTreeMap::new(),
        lease: LeaseSettings::default(),
        pace: Pace::default(),
    }
}
