//! The wire: EC2 Query and SSM JSON 1.1 over HTTP/1.1, with faults between the call and its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::faults::{FaultAction, When, usual_status};
use crate::form::Form;
use crate::sigv4::{self, Refusal, Signed};
use crate::world::{ApiError, Random};
use crate::xml;

use super::admin;
use super::calls::{self, Outcome};
use super::shared::Shared;

/// The largest body of a request.
const MAX_BODY: usize = 1 << 20;

/// The connection ends without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is cut, as a fault asked for")]
pub struct Cut;

/// What is answered.
pub type Reply = Response<Full<Bytes>>;

/// One request, from its first byte to its answer.
///
/// # Errors
/// [`Cut`] if there is to be none.
pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Reply, Cut> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Ok(plain(
                StatusCode::BAD_REQUEST,
                &format!("the body cannot be read: {error}\n"),
            ));
        }
    };
    let path = parts.uri.path();
    if let Some(verb) = path.strip_prefix("/_halo/") {
        return Ok(admin::answer(
            &shared,
            &parts.method,
            verb,
            parts.uri.query(),
            &body,
        ));
    }
    let headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    let query = parts.uri.query().unwrap_or_default();
    let target = parts
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok());
    let asked = match target {
        Some(target) => Asked::ssm(target, &body),
        None => Asked::ec2(&parts.method, query, &body),
    };
    let signed = Signed {
        method: parts.method.as_str(),
        path,
        query,
        headers: &headers,
        body: &body,
    };
    let refusal = {
        let region = shared.look(|world, _, _| world.rules.catalogue.region.clone());
        let key = shared.credentials.as_ref();
        let key = key.map(|key| (key.id.as_str(), key.secret.as_str()));
        sigv4::check(&signed, &region, asked.service(), key).err()
    };
    // In a task of its own: a caller that goes away does not undo its call.
    let call = tokio::spawn(carry_out(shared, asked, refusal));
    call.await.unwrap_or(Err(Cut))
}

/// What a request asks for.
#[derive(Debug)]
enum Asked {
    Ec2 {
        action: String,
        form: Result<Form, ApiError>,
    },
    Ssm {
        action: String,
        body: Result<Value, ApiError>,
    },
}

impl Asked {
    fn ec2(method: &Method, query: &str, body: &[u8]) -> Self {
        let bytes = if *method == Method::GET {
            query.as_bytes()
        } else {
            body
        };
        let form = Form::parse(bytes)
            .map_err(|error| ApiError::bad("MalformedQueryString", error.to_string()));
        let action = form
            .as_ref()
            .ok()
            .and_then(|form| form.get("Action"))
            .unwrap_or_default();
        Self::Ec2 {
            action: action.to_owned(),
            form,
        }
    }

    fn ssm(target: &str, body: &[u8]) -> Self {
        let body = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad("SerializationException", error.to_string()));
        Self::Ssm {
            action: target
                .strip_prefix("AmazonSSM.")
                .unwrap_or_default()
                .to_owned(),
            body,
        }
    }

    fn service(&self) -> &'static str {
        match self {
            Self::Ec2 { .. } => "ec2",
            Self::Ssm { .. } => "ssm",
        }
    }

    fn action(&self) -> &str {
        match self {
            Self::Ec2 { action, .. } | Self::Ssm { action, .. } => action,
        }
    }
}

/// What the world said.
enum Said {
    Ec2(Vec<xml::Element>),
    Ssm(Value),
}

async fn carry_out(
    shared: Arc<Shared>,
    asked: Asked,
    refusal: Option<Refusal>,
) -> Result<Reply, Cut> {
    let at_us = shared.clock.elapsed_us();
    let parameters = match &asked {
        Asked::Ec2 { form: Ok(form), .. } => calls::of_form(form),
        Asked::Ssm { body: Ok(body), .. } => calls::of_json(body),
        Asked::Ec2 { .. } | Asked::Ssm { .. } => Default::default(),
    };
    let entered = shared.step(|_, faults, calls, step| {
        let fault = match refusal {
            Some(_) => None,
            None => faults.meet(asked.action(), &parameters),
        };
        let sequence = calls.enter(asked.service(), asked.action(), parameters.clone(), at_us);
        (sequence, fault, step.random.request_id())
    });
    let (sequence, fault, request_id) = match entered {
        Ok(entered) => entered,
        Err(error) => return Ok(broken(&error.to_string())),
    };
    let call = Call {
        shared,
        asked,
        sequence,
        request_id,
    };
    if let Some(refusal) = refusal {
        return Ok(call.refuse(&refused(refusal, call.asked.service())));
    }
    let Some(fault) = fault else {
        let said = call.perform();
        return Ok(call.reply(said));
    };
    tracing::debug!(action = call.asked.action(), ?fault, "a fault meets a call");
    call.suffer(fault).await
}

struct Call {
    shared: Arc<Shared>,
    asked: Asked,
    sequence: u64,
    request_id: String,
}

impl Call {
    /// Does what was asked.
    fn perform(&self) -> Result<Said, ApiError> {
        let done = self.shared.step(|world, _, _, step| match &self.asked {
            Asked::Ec2 { action, form } => {
                let form = form.as_ref().map_err(Clone::clone)?;
                if action.is_empty() {
                    return Err(ApiError::bad(
                        "MissingAction",
                        "The request must contain the parameter Action",
                    ));
                }
                world.ec2(action, form, step).map(Said::Ec2)
            }
            Asked::Ssm { action, body } => {
                let body = body.as_ref().map_err(Clone::clone)?;
                world.ssm(action, body, step).map(Said::Ssm)
            }
        });
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "the state is not stored");
            Err(ApiError::with(
                500,
                "InternalError",
                "An internal error has occurred",
            ))
        })
    }

    /// Done, unless a fault says that it is to come before the effect.
    fn perform_if(&self, when: When) -> bool {
        match when {
            When::Before => false,
            When::After => self.perform().is_ok(),
        }
    }

    async fn suffer(&self, fault: FaultAction) -> Result<Reply, Cut> {
        match fault {
            FaultAction::Error {
                code,
                message,
                status,
                when,
            } => {
                let status = status.unwrap_or_else(|| usual_status(&code));
                let error = ApiError::with(status, code, message);
                if when == When::Before {
                    return Ok(self.refuse(&error));
                }
                self.lost(self.perform_if(when), "error");
                Ok(self.error_reply(&error))
            }
            FaultAction::Cut { when } => {
                self.lost(self.perform_if(when), "cut");
                Err(Cut)
            }
            FaultAction::Hang { ms, when } => {
                self.lost(self.perform_if(when), "hang");
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Err(Cut)
            }
            FaultAction::Delay { ms, when } => {
                let early = (when == When::After).then(|| self.perform());
                tokio::time::sleep(Duration::from_millis(ms)).await;
                let said = early.unwrap_or_else(|| self.perform());
                Ok(self.reply(said))
            }
            FaultAction::Garbage { when } => {
                self.lost(self.perform_if(when), "garbage");
                Ok(plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "<html><body><h1>502 Bad Gateway</h1>",
                ))
            }
        }
    }

    fn lost(&self, done: bool, fault: &'static str) {
        self.decide(Outcome::Lost { done, fault });
    }

    fn decide(&self, outcome: Outcome) {
        let at_us = self.shared.clock.elapsed_us();
        let entered = self
            .shared
            .step(|_, _, calls, _| calls.decide(self.sequence, outcome, at_us));
        if let Err(error) = entered {
            tracing::error!(%error, "the state is not stored");
        }
    }

    fn reply(&self, said: Result<Said, ApiError>) -> Reply {
        match said {
            Err(error) => self.refuse(&error),
            Ok(Said::Ec2(children)) => {
                self.decide(Outcome::Done);
                let body = xml::answer(self.asked.action(), &self.request_id, &children);
                self.finish(StatusCode::OK, "text/xml;charset=UTF-8", body)
            }
            Ok(Said::Ssm(value)) => {
                self.decide(Outcome::Done);
                self.finish(
                    StatusCode::OK,
                    "application/x-amz-json-1.1",
                    value.to_string(),
                )
            }
        }
    }

    fn refuse(&self, error: &ApiError) -> Reply {
        self.decide(Outcome::Refused {
            code: error.code.to_string(),
            status: error.status,
        });
        self.error_reply(error)
    }

    fn error_reply(&self, error: &ApiError) -> Reply {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
        match self.asked {
            Asked::Ec2 { .. } => {
                let body = xml::failure(&self.request_id, &error.code, &error.message);
                self.finish(status, "text/xml;charset=UTF-8", body)
            }
            Asked::Ssm { .. } => {
                let mut body = json!({ "__type": error.code });
                if !error.message.is_empty() {
                    body["message"] = json!(error.message);
                }
                self.finish(status, "application/x-amz-json-1.1", body.to_string())
            }
        }
    }

    fn finish(&self, status: StatusCode, kind: &'static str, body: String) -> Reply {
        let mut reply = Response::new(Full::new(Bytes::from(body)));
        *reply.status_mut() = status;
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            headers.insert("x-amzn-requestid", id);
        }
        reply
    }
}

fn refused(refusal: Refusal, service: &str) -> ApiError {
    let message = refusal.to_string();
    let ec2 = service == "ec2";
    match refusal {
        Refusal::Missing => ApiError::with(403, "MissingAuthenticationToken", message),
        Refusal::Malformed if ec2 => ApiError::with(401, "AuthFailure", message),
        Refusal::Malformed => ApiError::bad("IncompleteSignatureException", message),
        Refusal::Scope if ec2 => ApiError::with(401, "AuthFailure", message),
        Refusal::Scope => ApiError::bad("InvalidSignatureException", message),
        Refusal::UnknownKey if ec2 => ApiError::with(
            401,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        ),
        Refusal::UnknownKey => ApiError::bad("UnrecognizedClientException", message),
        Refusal::Mismatch if ec2 => ApiError::with(403, "SignatureDoesNotMatch", message),
        Refusal::Mismatch => ApiError::bad("InvalidSignatureException", message),
    }
}

fn broken(why: &str) -> Reply {
    tracing::error!(why, "the state is not stored");
    let id = Random(0).request_id();
    plain(
        StatusCode::INTERNAL_SERVER_ERROR,
        &xml::failure(&id, "InternalError", "An internal error has occurred"),
    )
}

/// A short answer in plain text.
pub fn plain(status: StatusCode, text: &str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}
