//! Plain HTTP requests to what listens in the run's own network.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends one request and returns the body of its answer.
///
/// # Errors
/// Nobody answers, or the answer is not 2xx.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let body = body.unwrap_or_default();
        // HTTP/1.0: the end of the body is the end of the connection, and nothing is chunked.
        let text = format!(
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, exchange)
        .await
        .with_context(|| format!("{method} http://{address}{path}: no answer in {LIMIT:?}"))?
        .with_context(|| format!("{method} http://{address}{path}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (code, body) = parse(&text).with_context(|| format!("{address}{path}: no HTTP answer"))?;
    if !(200..300).contains(&code) {
        bail!("{method} http://{address}{path}: {code} {}", body.trim());
    }
    Ok(body.to_owned())
}

/// GET.
///
/// # Errors
/// As [`request`].
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    request(address, "GET", path, None).await
}

fn parse(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((code, body))
}

/// Text as it stands in a query.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        assert_eq!(
            parse("HTTP/1.0 200 OK\r\nA: b\r\n\r\nbody\r\n\r\nmore"),
            Some((200, "body\r\n\r\nmore"))
        );
        assert_eq!(parse("HTTP/1.1 503 Busy\r\n\r\n"), Some((503, "")));
        for nonsense in [
            "",
            "HTTP/1.1 200 OK",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 2\r\n\r\n",
        ] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("up{a=\"b\"} > 1"), "up%7Ba%3D%22b%22%7D%20%3E%201");
    }
}
