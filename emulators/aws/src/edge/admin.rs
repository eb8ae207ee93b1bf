//! The admin endpoint, `/_halo/...`: what happens without the API, and what was asked of it. JSON in, JSON out.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::faults::{Fault, Schedule};
use crate::rules::{Limits, RateLimit, Timings};
use crate::world::state::{CapacityRule, ParameterKind, Tags};

use super::http::Reply;
use super::shared::Shared;
use super::state_file::StateFileError;

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error("no such verb; see `halo-aws-emulator --help`")]
    Unknown,
    #[error("there is no such thing")]
    NotFound,
    #[error("the body is not what this verb takes: {0}")]
    Body(#[from] serde_json::Error),
    #[error(transparent)]
    Stored(#[from] StateFileError),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NewFaults {
    Several(Schedule),
    One(Fault),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Denied {
    actions: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Reason {
    code: Option<String>,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewParameter {
    name: String,
    value: String,
    #[serde(rename = "type", default = "secure")]
    kind: ParameterKind,
}

fn secure() -> ParameterKind {
    ParameterKind::SecureString
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

/// Carries out one verb.
pub fn answer(
    shared: &Shared,
    method: &Method,
    verb: &str,
    query: Option<&str>,
    body: &[u8],
) -> Reply {
    match carry_out(shared, method, verb, query.unwrap_or_default(), body) {
        Ok(value) => reply(StatusCode::OK, &value),
        Err(error) => {
            let status = match error {
                AdminError::Unknown | AdminError::NotFound => StatusCode::NOT_FOUND,
                AdminError::Body(_) => StatusCode::BAD_REQUEST,
                AdminError::Stored(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            reply(status, &json!({ "error": error.to_string() }))
        }
    }
}

fn carry_out(
    shared: &Shared,
    method: &Method,
    verb: &str,
    query: &str,
    body: &[u8],
) -> Result<Value, AdminError> {
    let parts: Vec<&str> = verb.split('/').collect();
    match (method.as_str(), &parts[..]) {
        ("GET", ["health"]) => Ok(json!({ "ok": true })),
        ("GET", ["state"]) => {
            let state = shared.step(|world, _, _, step| {
                world.advance(step);
                world.state_shown()
            })?;
            Ok(serde_json::to_value(state)?)
        }
        ("GET", ["calls"]) => {
            let after: u64 = query
                .strip_prefix("after=")
                .and_then(|number| number.parse().ok())
                .unwrap_or(0);
            let records = shared.look(|_, _, calls| {
                let records = calls.records().iter();
                records
                    .filter(|record| record.sequence > after)
                    .cloned()
                    .collect::<Vec<_>>()
            });
            Ok(json!({ "calls": serde_json::to_value(records)? }))
        }
        ("GET", ["faults"]) => {
            let waiting = shared.look(|_, faults, _| faults.waiting().to_vec());
            Ok(json!({ "faults": serde_json::to_value(waiting)? }))
        }
        ("POST", ["faults"]) => {
            // The first attempt only tells one form from the other; the second says what is wrong.
            let faults = match serde_json::from_slice(body) {
                Ok(NewFaults::Several(schedule)) => schedule.faults,
                Ok(NewFaults::One(fault)) => vec![fault],
                Err(_) => vec![read::<Fault>(body)?],
            };
            shared.step(|_, waiting, _, _| {
                faults.into_iter().for_each(|fault| waiting.push(fault))
            })?;
            done()
        }
        ("DELETE", ["faults"]) => {
            shared.step(|_, faults, _, _| faults.clear())?;
            done()
        }
        ("POST", ["capacity"]) => {
            let rule: CapacityRule = read(body)?;
            shared.step(|world, _, _, _| world.set_capacity(rule))?;
            done()
        }
        ("POST", ["deny"]) => {
            let denied: Denied = read(body)?;
            shared.step(|world, _, _, _| world.set_denied(denied.actions))?;
            done()
        }
        ("POST", ["timings"]) => {
            let timings: Timings = read(body)?;
            shared.step(|world, _, _, _| world.set_timings(timings))?;
            done()
        }
        ("POST", ["limits"]) => {
            let limits: Limits = read(body)?;
            shared.step(|world, _, _, _| world.set_limits(limits))?;
            done()
        }
        ("POST", ["rate-limits"]) => {
            let limits: Vec<RateLimit> = read(body)?;
            shared.step(|world, _, _, _| world.set_rate_limits(limits))?;
            done()
        }
        ("POST", ["parameters"]) => {
            let new: NewParameter = read(body)?;
            let version = shared.step(|world, _, _, step| {
                world.put_parameter_out_of_band(&new.name, &new.value, new.kind, step)
            })?;
            Ok(json!({ "version": version }))
        }
        ("DELETE", ["parameters"]) => {
            let named: Named = read(body)?;
            found(shared.step(|world, _, _, _| world.remove_parameter(&named.name))?)
        }
        ("POST", ["instances", id, "terminate"]) => {
            let reason: Reason = if body.is_empty() {
                Reason::default()
            } else {
                read(body)?
            };
            let code = reason.code.as_deref();
            let reason = code.map(|code| (code, reason.message.as_str()));
            found(shared.step(|world, _, _, step| world.terminate_out_of_band(id, reason, step))?)
        }
        ("POST", ["instances", id, "stop"]) => {
            found(shared.step(|world, _, _, step| world.stop_out_of_band(id, step))?)
        }
        ("POST", ["tags", id]) => {
            let tags: Tags = read(body)?;
            found(shared.step(|world, _, _, step| world.tag_out_of_band(id, &tags, step))?)
        }
        ("POST", ["reset"]) => {
            shared.step(|world, faults, calls, step| {
                world.reset(step);
                faults.clear();
                calls.clear();
            })?;
            done()
        }
        _ => Err(AdminError::Unknown),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminError> {
    Ok(serde_json::from_slice(body)?)
}

fn done() -> Result<Value, AdminError> {
    Ok(json!({}))
}

fn found(found: bool) -> Result<Value, AdminError> {
    if found {
        done()
    } else {
        Err(AdminError::NotFound)
    }
}

fn reply(status: StatusCode, value: &Value) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}
