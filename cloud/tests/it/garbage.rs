//! Answers that are none. Whatever comes, the caller is told that it is not known whether it was done, and nothing panics.

use std::time::Duration;

use halo_cloud::{Cloud as _, Failure, Secrets as _, Tags};

use crate::script::{Reply, Server, clients, launch, launched, settings};

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn none_of_these_is_an_answer() {
    let bodies: [&[u8]; 12] = [
        b"",
        b"not xml",
        b"{\"json\":true}",
        b"<html><body>captive portal</body></html>",
        b"<DescribeInstancesResponse>",
        b"<RunInstancesResponse><instancesSet/></RunInstancesResponse>",
        b"<RunInstancesResponse><instancesSet><item/></instancesSet></RunInstancesResponse>",
        b"<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><RunInstancesResponse>&b;</RunInstancesResponse>",
        b"<RunInstancesResponse>&nosuch;</RunInstancesResponse>",
        b"<RunInstancesResponse>\xff\xfe</RunInstancesResponse>",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        &[0; 1000],
    ];
    let mut raw: Vec<Vec<u8>> = bodies.iter().map(|body| http("200 OK", "", body)).collect();
    raw.push(b"garbage\r\n\r\n".to_vec());
    raw.push(b"HTTP/1.1 9999 X\r\n\r\n".to_vec());
    raw.push(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".to_vec());
    raw.push(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n<a/>".to_vec());
    raw.push(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n".to_vec());
    raw.push(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5_000)).into_bytes());
    raw.push(http("204 No Content", "", b""));
    for bytes in raw {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let server = Server::new(move |_, _| Reply::Raw(bytes.clone())).await;
        let mut settings = settings(&server.url);
        settings.timing.attempt = Duration::from_secs(2);
        let clients = clients(settings);
        let failures = [
            clients
                .cloud
                .launch(&launch("t-1"))
                .await
                .err()
                .map(|error| error.failure),
            clients
                .cloud
                .volumes(&Tags::new())
                .await
                .err()
                .map(|error| error.failure),
        ];
        assert_eq!(failures, [Some(Failure::Unreachable); 2], "{shown}");
        let error = clients
            .secrets
            .parameter("/halo/root", None)
            .await
            .err()
            .unwrap();
        assert_eq!(error.name(), "SecretsUnavailable", "{shown}");
    }
}

#[tokio::test]
async fn an_error_without_a_body_keeps_its_status() {
    for (status, failure) in [
        ("302 Found", Failure::Invalid),
        ("403 Forbidden", Failure::Unauthorized),
        ("404 Not Found", Failure::Invalid),
        ("429 Too Many Requests", Failure::Throttled),
        ("500 Oops", Failure::Server),
    ] {
        let bytes = http(status, "location: http://127.0.0.1:1/\r\n", b"");
        let server = Server::new(move |_, _| Reply::Raw(bytes.clone())).await;
        let error = clients(settings(&server.url))
            .cloud
            .launch(&launch("t-1"))
            .await
            .unwrap_err();
        assert_eq!(error.failure, failure, "{status}");
        assert_eq!(error.code, format!("Http{}", &status[..3]));
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let endless = [
        b"HTTP/1.1 200 OK\r\n\r\n<a>".to_vec(),
        vec![b'x'; 33 * 1024 * 1024],
    ]
    .concat();
    let server = Server::new(move |n, _| match n {
        0 => Reply::Raw(endless.clone()),
        _ => launched(&crate::script::instance("i-1", "pending", &[])),
    })
    .await;
    let clients = clients(settings(&server.url));
    assert!(clients.cloud.launch(&launch("t-1")).await.is_ok());
    assert_eq!(clients.watch.codes(), ["AnswerTooLarge", "OK"]);
}
