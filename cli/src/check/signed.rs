//! One signed call to AWS: sent, and its answer read into what [`super::call`] judges.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use quick_xml::events::Event;
use serde_json::Value;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::call::Answer;
use super::dial::Dialer;
use super::endpoint::{Endpoint, Service};

/// No answer to what is asked here is longer.
const LARGEST: usize = 1024 * 1024;

/// What is sent.
pub struct Call<'a> {
    /// To whom.
    pub endpoint: &'a Endpoint,
    /// The action, such as `GetParameter`.
    pub action: &'static str,
    /// The body: a JSON object, or the rest of a form behind `Action` and `Version`.
    pub body: String,
}

impl Call<'_> {
    /// Content type, target of JSON services, and the whole body.
    fn wire(&self) -> (&'static str, Option<String>, String) {
        let form = |version: &str| {
            let body = format!("Action={}&Version={version}{}", self.action, self.body);
            (
                "application/x-www-form-urlencoded; charset=utf-8",
                None,
                body,
            )
        };
        let json = |kind: &'static str, prefix: &str| {
            (
                kind,
                Some(format!("{prefix}.{}", self.action)),
                self.body.clone(),
            )
        };
        match self.endpoint.service {
            Service::Sts => form("2011-06-15"),
            Service::Ec2 => form("2016-11-15"),
            Service::Ssm => json("application/x-amz-json-1.1", "AmazonSSM"),
            Service::SecretsManager => json("application/x-amz-json-1.1", "secretsmanager"),
            Service::DynamoDb => json("application/x-amz-json-1.0", "DynamoDB_20120810"),
        }
    }

    /// Sends it once. The body of a success comes along; it may be a secret.
    pub async fn send(
        &self,
        dialer: &Dialer,
        credentials: &Credentials,
    ) -> (Answer, Zeroizing<Vec<u8>>) {
        let nothing = |why: String| (Answer::Nothing(why), Zeroizing::default());
        let request = match self.signed(credentials, SystemTime::now()) {
            Ok(request) => request,
            Err(error) => return nothing(format!("the request cannot be built: {error}")),
        };
        let stream = match dialer.open(self.endpoint).await {
            Ok(stream) => stream,
            Err(why) => return nothing(why),
        };
        // Reading may take longer than a step of connecting: whoever answers does something first.
        match timeout(dialer.limit() * 3, exchange(stream, request)).await {
            Err(_) => nothing(format!("within {:?}", dialer.limit() * 3)),
            Ok(Err(why)) => nothing(why),
            Ok(Ok((status, error_type, body))) => {
                (read(status, error_type.as_deref(), &body), body)
            }
        }
    }

    fn signed(
        &self,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<Request<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let (content_type, target, body) = self.wire();
        let authority = self.endpoint.authority();
        let mut headers = vec![("content-type", content_type), ("host", authority.as_str())];
        if let Some(target) = &target {
            headers.push(("x-amz-target", target));
        }
        let path = match self.endpoint.uri.path() {
            "" => "/",
            path => path,
        };
        let mut request = Request::builder().method(Method::POST).uri(path);
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        request = request.header("user-agent", concat!("halo/", env!("CARGO_PKG_VERSION")));
        let mut request = request.body(Full::new(Bytes::from(body.clone())))?;
        let identity = credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.endpoint.region)
            .name(self.endpoint.service.name())
            .time(now)
            .settings(SigningSettings::default())
            .build()?
            .into();
        let scheme = self.endpoint.uri.scheme_str().unwrap_or("https");
        let uri = format!("{scheme}://{authority}{path}");
        let signable = SignableRequest::new(
            "POST",
            &uri,
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        )?;
        let (instructions, _) = sign(signable, &parameters)?.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

type Received = (u16, Option<String>, Zeroizing<Vec<u8>>);

async fn exchange(
    stream: Box<dyn super::dial::Stream>,
    request: Request<Full<Bytes>>,
) -> Result<Received, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(text)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status().as_u16();
        let header = response.headers().get("x-amzn-errortype");
        let error_type = header
            .and_then(|value: &HeaderValue| value.to_str().ok())
            .map(ToOwned::to_owned);
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        Ok((status, error_type, Zeroizing::new(body.to_bytes().to_vec())))
    };
    tokio::pin!(connection, talk);
    // The connection has to be driven for as long as the exchange takes; it may end right after the answer's last byte.
    tokio::select! {
        done = &mut talk => done,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(text(error)),
        },
    }
}

/// Reads an answer of any service.
fn read(status: u16, error_type: Option<&str>, body: &[u8]) -> Answer {
    let json: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
    let is_xml = || xml_text(body, None).is_some();
    if (200..300).contains(&status) {
        return match json.is_some() || is_xml() {
            true => Answer::Done,
            false => strange(status, body),
        };
    }
    let (code, message) = match &json {
        Some(json) => {
            let text = |keys: &[&str]| {
                keys.iter()
                    .find_map(|key| json.get(*key)?.as_str())
                    .unwrap_or_default()
            };
            let code = match text(&["__type"]) {
                "" => error_type.unwrap_or_default(),
                code => code,
            };
            (code.to_owned(), text(&["message", "Message"]).to_owned())
        }
        None => (
            xml_text(body, Some("Code")).unwrap_or_default(),
            xml_text(body, Some("Message")).unwrap_or_default(),
        ),
    };
    // `com.amazonaws.dynamodb.v20120810#ResourceNotFoundException`, `AccessDeniedException:http://...`
    let code = code.rsplit('#').next().unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default().trim();
    if code.is_empty() {
        return strange(status, body);
    }
    Answer::Refused {
        status,
        code: code.to_owned(),
        message: one_line(&message),
    }
}

fn strange(status: u16, body: &[u8]) -> Answer {
    let begin: String = String::from_utf8_lossy(body).chars().take(80).collect();
    Answer::Strange {
        status,
        body: one_line(&begin),
    }
}

/// EC2 puts a long encoded message behind its words; nobody reads it here.
fn one_line(text: &str) -> String {
    let text = text
        .split("Encoded authorization failure message")
        .next()
        .unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// The text of the first element of this name; without a name, the name of the document's own element if it is AWS's.
pub(super) fn xml_text(body: &[u8], name: Option<&str>) -> Option<String> {
    let mut reader = quick_xml::Reader::from_reader(body);
    let mut inside = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                let found = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                match name {
                    None => return found.ends_with("Response").then_some(found),
                    Some(name) => inside = found == name,
                }
            }
            Event::Text(text) if inside => return Some(text.xml10_content().ok()?.into_owned()),
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, message: &str) -> Answer {
        Answer::Refused {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn answers_of_every_service() {
        let table: &[(u16, Option<&str>, &str, Answer)] = &[
            (200, None, "{}", Answer::Done),
            (
                200,
                None,
                "<GetCallerIdentityResponse/>",
                Answer::Strange {
                    status: 200,
                    body: "<GetCallerIdentityResponse/>".into(),
                },
            ),
            (
                200,
                None,
                "<GetCallerIdentityResponse><A>x</A></GetCallerIdentityResponse>",
                Answer::Done,
            ),
            (
                200,
                None,
                "<html>\n<body>",
                Answer::Strange {
                    status: 200,
                    body: "<html> <body>".into(),
                },
            ),
            (
                200,
                None,
                "[1]",
                Answer::Strange {
                    status: 200,
                    body: "[1]".into(),
                },
            ),
            (
                502,
                None,
                "",
                Answer::Strange {
                    status: 502,
                    body: String::new(),
                },
            ),
            (
                400,
                None,
                r#"{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException","message":"no  table"}"#,
                refused(400, "ResourceNotFoundException", "no table"),
            ),
            (
                400,
                Some("AccessDeniedException:http://x"),
                r#"{"Message":"no"}"#,
                refused(400, "AccessDeniedException", "no"),
            ),
            (
                403,
                None,
                "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>No. \
                 Encoded authorization failure message: 4Ok</Message></Error></Errors></Response>",
                refused(403, "UnauthorizedOperation", "No."),
            ),
            (
                403,
                None,
                "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type>\
                 <Code>InvalidClientTokenId</Code><Message>bad</Message></Error></ErrorResponse>",
                refused(403, "InvalidClientTokenId", "bad"),
            ),
        ];
        for (status, error_type, body, expected) in table {
            assert_eq!(
                read(*status, *error_type, body.as_bytes()),
                *expected,
                "{body}"
            );
        }
    }

    #[test]
    fn what_is_sent() {
        let endpoint = |service| Endpoint::find(service, "us-east-2", |_| None).unwrap();
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
        for (service, action, body, content_type, target, sent) in [
            (
                Service::Sts,
                "GetCallerIdentity",
                "",
                "application/x-www-form-urlencoded; charset=utf-8",
                None,
                "Action=GetCallerIdentity&Version=2011-06-15",
            ),
            (
                Service::Ec2,
                "DescribeInstances",
                "&DryRun=true",
                "application/x-www-form-urlencoded; charset=utf-8",
                None,
                "Action=DescribeInstances&Version=2016-11-15&DryRun=true",
            ),
            (
                Service::DynamoDb,
                "GetItem",
                "{}",
                "application/x-amz-json-1.0",
                Some("DynamoDB_20120810.GetItem"),
                "{}",
            ),
            (
                Service::Ssm,
                "GetParameter",
                "{}",
                "application/x-amz-json-1.1",
                Some("AmazonSSM.GetParameter"),
                "{}",
            ),
        ] {
            let endpoint = endpoint(service);
            let call = Call {
                endpoint: &endpoint,
                action,
                body: body.to_owned(),
            };
            assert_eq!(call.wire().2, sent);
            let request = call.signed(&credentials, SystemTime::UNIX_EPOCH).unwrap();
            let header = |name: &str| {
                request
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap())
            };
            assert_eq!(header("content-type"), Some(content_type));
            assert_eq!(header("x-amz-target"), target);
            assert_eq!(header("host"), Some(endpoint.host()));
            let signature = header("authorization").unwrap();
            assert!(
                signature.contains(&format!("/us-east-2/{}/aws4_request", service.name())),
                "{signature}"
            );
            assert!(!signature.contains("secret"));
        }
    }
}
