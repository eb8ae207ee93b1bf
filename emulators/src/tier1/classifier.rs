//! Who decides what is wanted: the rules, or a classifier behind HTTP with the rules to fall back on.

use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use serde::{Deserialize, Serialize};

use crate::tier1::classify::{Heard, Intent, Understanding, by_rules};
use crate::tier1::client::{self, ClientError};

/// Finds out what is wanted.
#[async_trait]
pub trait Classifier: Send + Sync {
    /// Decides about one utterance. Always comes to a decision.
    async fn classify(&self, heard: &Heard) -> Understanding;
}

/// The rules alone.
pub struct Rules;

#[async_trait]
impl Classifier for Rules {
    async fn classify(&self, heard: &Heard) -> Understanding {
        by_rules(heard)
    }
}

/// A classifier that answers `POST` with JSON: it is asked `{"segments":[...],"images":n,"gestures":n}` and answers
/// `{"intent":"escalate"|"local"|"ambient","reason":"..."}`. It may overrule the rules between escalation and silence; a
/// local answer stays one that the rules can find words for. What it cannot decide in time, the rules decide, and the
/// receipt says so.
pub struct HttpClassifier {
    /// Where it is; `http` only, as it is meant to run beside the phone.
    pub uri: Uri,
    /// How long it may take.
    pub time_limit: Duration,
}

#[derive(Serialize)]
struct Question<'a> {
    segments: &'a [String],
    images: usize,
    gestures: usize,
}

#[derive(Deserialize)]
struct Decided {
    intent: Wanted,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Escalate,
    Local,
    Ambient,
}

/// The name of decisions that the HTTP classifier made.
const HTTP: &str = "http/1";

#[async_trait]
impl Classifier for HttpClassifier {
    async fn classify(&self, heard: &Heard) -> Understanding {
        let ruled = by_rules(heard);
        if heard.is_private() {
            // Not even the classifier hears what may not leave the phone.
            return ruled;
        }
        let asked = tokio::time::timeout(self.time_limit, self.ask(heard)).await;
        let decided = match asked {
            Ok(Ok(decided)) => decided,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the classifier failed; the rules decide");
                return fall_back(ruled, "classifier_failed");
            }
            Err(_) => {
                tracing::warn!("the classifier took too long; the rules decide");
                return fall_back(ruled, "classifier_timed_out");
            }
        };
        combine(heard, ruled, &decided)
    }
}

impl HttpClassifier {
    async fn ask(&self, heard: &Heard) -> Result<Decided, ClientError> {
        let question = Question {
            segments: &heard.segments,
            images: heard.images,
            gestures: heard.gestures,
        };
        let body = serde_json::to_vec(&question)
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let (status, body) = client::post_plain(&self.uri, body).await?;
        if status != 200 {
            return Err(ClientError::Answer(format!("HTTP {status}")));
        }
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer(error.to_string()))
    }
}

fn fall_back(ruled: Understanding, why: &str) -> Understanding {
    Understanding {
        reason: format!("{why}, {}", ruled.reason),
        ..ruled
    }
}

/// The decision of the classifier, as far as it can be carried out.
fn combine(heard: &Heard, ruled: Understanding, decided: &Decided) -> Understanding {
    let spoken = || heard.segments.join(" ");
    let prompt = match ruled.prompt.is_empty() {
        true => spoken(),
        false => ruled.prompt.clone(),
    };
    let (intent, prompt) = match (decided.intent, &ruled.intent) {
        (Wanted::Ambient, _) => (Intent::Ambient, String::new()),
        (Wanted::Escalate, _) if !prompt.is_empty() => (Intent::Escalate, prompt),
        (Wanted::Local, Intent::Local(_)) => (ruled.intent.clone(), ruled.prompt.clone()),
        _ => return fall_back(ruled, "classifier_impossible"),
    };
    Understanding {
        intent,
        prompt,
        reason: token(&decided.reason),
        classifier: HTTP.to_owned(),
    }
}

/// A reason stands in the clear in a receipt, so a classifier may name a rule in one word and quote nobody.
fn token(reason: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    if (1..=48).contains(&reason.len()) && reason.chars().all(allowed) {
        reason.to_owned()
    } else {
        "unnamed".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier1::classify::RULES;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn heard(text: &str) -> Heard {
        Heard {
            segments: vec![text.to_owned()],
            ..Heard::default()
        }
    }

    /// Answers one request with `answer`, or never if there is none. Returns what it was asked.
    async fn classify(
        heard: &Heard,
        answer: Option<&'static str>,
        time_limit: Duration,
    ) -> (Understanding, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/intent", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let classifier = HttpClassifier { uri, time_limit };
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                socket.read_buf(&mut request).await.unwrap();
            }
            match answer {
                Some(answer) => socket.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
            String::from_utf8(request).unwrap()
        };
        tokio::pin!(server);
        let mut asked = String::new();
        let classified = classifier.classify(heard);
        tokio::pin!(classified);
        let understood = loop {
            tokio::select! {
                request = &mut server, if asked.is_empty() => asked = request,
                understood = &mut classified => break understood,
            }
        };
        (understood, asked)
    }

    fn ok(body: &str) -> &'static str {
        Box::leak(
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_boxed_str(),
        )
    }

    #[tokio::test]
    async fn a_classifier_is_not_told_what_is_private() {
        // Nobody listens there: asking would fail, and the reason would say so.
        let uri = "http://127.0.0.1:9/intent".parse().unwrap();
        let time_limit = Duration::from_secs(20);
        let classifier = HttpClassifier { uri, time_limit };
        let said = heard("Keep this private: what does the board decide?");
        assert_eq!(classifier.classify(&said).await, by_rules(&said));
    }

    #[tokio::test]
    async fn the_classifier_decides_and_the_receipt_names_it() {
        let limit = Duration::from_secs(20);
        let answer = ok(r#"{"intent":"escalate","reason":"stock_lookup"}"#);
        let (found, asked) = classify(&heard("The pallets in nine"), Some(answer), limit).await;
        assert_eq!(
            (found.intent, found.prompt.as_str()),
            (Intent::Escalate, "The pallets in nine")
        );
        assert_eq!(
            (found.reason.as_str(), found.classifier.as_str()),
            ("stock_lookup", HTTP)
        );
        assert!(asked.starts_with("POST /intent HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.ends_with(r#"{"segments":["The pallets in nine"],"images":0,"gestures":0}"#),
            "{asked}"
        );

        let answer = ok(r#"{"intent":"ambient","reason":"they said \"secret\""}"#);
        let (found, _) = classify(&heard("What is in rack two?"), Some(answer), limit).await;
        assert_eq!((found.intent, found.prompt.as_str()), (Intent::Ambient, ""));
        assert_eq!(found.reason, "unnamed");

        let (found, _) = classify(
            &heard("What time is it?"),
            Some(ok(r#"{"intent":"local"}"#)),
            limit,
        )
        .await;
        assert!(matches!(found.intent, Intent::Local(_)));
    }

    #[tokio::test]
    async fn the_rules_decide_when_it_does_not() {
        let limit = Duration::from_secs(20);
        let question = heard("What is in rack two?");
        let failures = [
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            ok("{}"),
            ok(r#"{"intent":"maybe"}"#),
        ];
        for answer in failures {
            let (found, _) = classify(&question, Some(answer), limit).await;
            assert_eq!(found.intent, Intent::Escalate);
            assert_eq!(found.classifier, RULES);
            assert_eq!(
                found.reason,
                "classifier_failed, question: by_form, 1 of 1 segments"
            );
        }
        let (found, _) = classify(&question, Some(ok(r#"{"intent":"local"}"#)), limit).await;
        assert!(found.reason.starts_with("classifier_impossible, "));
        let (found, _) = classify(&question, None, Duration::from_millis(1)).await;
        assert_eq!(
            found.reason,
            "classifier_timed_out, question: by_form, 1 of 1 segments"
        );
    }
}
