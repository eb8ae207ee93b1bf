//! Lists and watches: each kind is listed once and then watched from there on, for ever.
//!
//! Answers are read object by object, in buffers that are wiped, and never logged: those of Secrets hold keys.

use std::sync::Arc;
use std::time::Duration;

use futures_util::io::AsyncBufReadExt as _;
use halo_crds::{GROUP, SUBSTRATE_LABEL, VERSION};
use halo_receipts::payload::ContentPolicy;
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, Request};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::error::Broken;
use super::hub::Hub;
use super::objects::{Kind, Parsed, parse};

/// Objects of one page of a list.
const PAGE: u32 = 250;
/// For one page of a list, and for a watch to begin.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the API server keeps a watch open, in seconds. Below what load balancers in front of it wait for.
const WATCH_SECONDS: u32 = 200;
/// The API server says something at least every minute. A watch that is silent for longer than this is dead.
const SILENCE: Duration = Duration::from_secs(150);
/// After the first failure; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// A watch that lasted so long was a good one.
const CALM: Duration = Duration::from_secs(5);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The label that only Secrets with keyrings have, and whose they are.
const KEYS_SELECTOR: &str =
    "halo.howdify.io/root-generation,app.kubernetes.io/managed-by=halo-operator";

/// What a watch needs.
#[derive(Clone)]
pub struct Watch {
    /// The API server.
    pub client: Client,
    /// The gateway's own namespace.
    pub namespace: String,
    /// What is kept of private content in new sessions.
    pub content: ContentPolicy,
    /// Where changes go.
    pub hub: Arc<Hub>,
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    more: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: ListMeta,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

impl Watch {
    /// Keeps the hub informed of a kind, for ever.
    pub async fn run(self, kind: Kind) {
        let mut version = None;
        let mut failures = 0u32;
        loop {
            let begun = Instant::now();
            let ended = self.follow(kind, &mut version).await;
            if begun.elapsed() >= CALM {
                failures = 0;
            }
            match ended {
                // The API server ends each watch after a while.
                Ok(()) if failures == 0 && begun.elapsed() >= CALM => continue,
                Ok(()) => {}
                Err(Broken::Expired) => {
                    tracing::debug!(kind = kind.name(), "listing again");
                    version = None;
                }
                Err(error) => {
                    self.hub.failed(kind);
                    tracing::warn!(kind = kind.name(), %error, "a watch broke; it begins again, and what is known stays");
                    // What cannot be read would come again from the same place on.
                    if matches!(error, Broken::Form { .. } | Broken::Status { .. }) {
                        version = None;
                    }
                }
            }
            tokio::time::sleep(pause(failures, super::random_byte())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Lists if there is nothing to continue, and watches until the API server ends the watch.
    async fn follow(&self, kind: Kind, version: &mut Option<String>) -> Result<(), Broken> {
        let from = match version {
            Some(from) => from,
            None => {
                let listed = self.list(kind).await?;
                version.insert(listed)
            }
        };
        self.watch(kind, from).await
    }

    async fn list(&self, kind: Kind) -> Result<String, Broken> {
        let requests = kube::core::Request::new(self.path(kind));
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = selector(kind).map(str::to_owned);
        let mut all = Vec::new();
        loop {
            let request = requests.list(&params).map_err(kube::Error::BuildRequest)?;
            let text = timeout(ANSWER, self.client.request_text(request)).await;
            let text = Zeroizing::new(text.map_err(|_| Broken::Silent)??);
            let list: List<'_> = serde_json::from_str(&text)?;
            for item in list.items.unwrap_or_default() {
                let parsed = parse(kind, item.get(), self.content);
                // What has no name cannot be told from others.
                if !parsed.key.name.is_empty() {
                    all.push(parsed);
                }
            }
            match list.metadata.more.filter(|more| !more.is_empty()) {
                Some(more) => params.continue_token = Some(more),
                None => {
                    self.hub.replace(kind, all);
                    return Ok(list.metadata.resource_version);
                }
            }
        }
    }

    /// Watches from `version` on, which moves along.
    async fn watch(&self, kind: Kind, version: &mut String) -> Result<(), Broken> {
        let params = WatchParams {
            label_selector: selector(kind).map(str::to_owned),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = kube::core::Request::new(self.path(kind)).watch(&params, version);
        let mut request: Request<Vec<u8>> = request.map_err(kube::Error::BuildRequest)?;
        // A stream that is compressed event by event is not understood by every decoder.
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, identity);
        let lines = timeout(ANSWER, self.client.request_stream(request)).await;
        let lines = lines.map_err(|_| Broken::Silent)??;
        let mut lines = std::pin::pin!(lines);
        self.hub.listening(kind);
        loop {
            let mut line = Zeroizing::new(Vec::new());
            let read = timeout(SILENCE, lines.read_until(b'\n', &mut line)).await;
            let read = read.map_err(|_| Broken::Silent)?;
            match read {
                Ok(0) => return Ok(()),
                Ok(_) if !line.ends_with(b"\n") => return Ok(()),
                Ok(_) => self.event(kind, &line, version)?,
                // The usual end of a watch that a proxy or the API server cuts.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn event(&self, kind: Kind, line: &[u8], version: &mut String) -> Result<(), Broken> {
        let event: Event<'_> = serde_json::from_slice(line)?;
        let json = event.object.get();
        match event.kind {
            "ADDED" | "MODIFIED" => {
                let parsed = parse(kind, json, self.content);
                proceed(version, &parsed)?;
                self.hub.put(kind, parsed);
            }
            "DELETED" => {
                let parsed = parse(kind, json, self.content);
                proceed(version, &parsed)?;
                self.hub.remove(kind, &parsed.key);
            }
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(json)?;
                *version = bookmark.metadata.resource_version;
                self.hub.listening(kind);
            }
            _ => {
                let status: Status = serde_json::from_str(json).unwrap_or_default();
                return Err(match status.code {
                    410 => Broken::Expired,
                    code => Broken::Status {
                        code,
                        message: status.message,
                    },
                });
            }
        }
        Ok(())
    }

    fn path(&self, kind: Kind) -> String {
        match kind {
            Kind::Secret => format!("/api/v1/namespaces/{}/secrets", self.namespace),
            Kind::Tenant => format!("/apis/{GROUP}/{VERSION}/halotenants"),
            Kind::Substrate => format!("/apis/{GROUP}/{VERSION}/halosubstrates"),
            Kind::Slice => "/apis/discovery.k8s.io/v1/endpointslices".to_owned(),
        }
    }
}

/// What tells the objects that are of interest from others of their kind.
fn selector(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Secret => Some(KEYS_SELECTOR),
        Kind::Slice => Some(SUBSTRATE_LABEL),
        Kind::Tenant | Kind::Substrate => None,
    }
}

/// Without a name and a version an event cannot be placed, and everything is listed again.
fn proceed(version: &mut String, parsed: &Parsed) -> Result<(), Broken> {
    if parsed.key.name.is_empty() || parsed.version.is_empty() {
        return Err(Broken::Expired);
    }
    version.clone_from(&parsed.version);
    Ok(())
}

/// How long nothing is tried after a failure that `failures` others came before: from half of a time that doubles to all of it.
fn pause(failures: u32, random: u8) -> Duration {
    let factor = 1u32 << failures.min(16);
    let most = PAUSE.saturating_mul(factor).min(PAUSE_MAX);
    most.mul_f64(0.5 + f64::from(random) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        assert_eq!(pause(0, 255), PAUSE);
        assert_eq!(pause(0, 0), PAUSE / 2);
        assert_eq!(pause(3, 255), PAUSE * 8);
        assert_eq!(pause(1000, 255), PAUSE_MAX);
    }
}
