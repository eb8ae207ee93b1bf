//! Shutdown: who may finish, who is closed and how, and what the probes say meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use halo_gateway::config::Limits;
use halo_gateway::server;
use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::payload::ContentPolicy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::device::Device;
use crate::pod::Manner;
use crate::world::{World, quick, with_pod, with_pod_and};

#[tokio::test]
async fn a_shutdown_lets_idle_devices_go_and_answers_finish() {
    let limits = Limits {
        drain_ms: 20_000,
        ..quick()
    };
    let (world, pod) = with_pod_and(Manner::Whole, 2, limits, ContentPolicy::Sealed).await;
    let mut idle = Device::new(&world).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let mut tokens = vec![device.token().await, device.token().await];
    assert!(admin(&world, "/readyz").await.starts_with("HTTP/1.1 200"));
    let gateway = Arc::clone(&world.gateway);
    let drained = tokio::spawn(async move { server::drain(&gateway).await });
    assert_eq!(idle.closed().await, Some(CloseCode::Restart));
    let ready = admin(&world, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("draining"),
        "{ready}"
    );
    assert!(admin(&world, "/healthz").await.starts_with("HTTP/1.1 200"));
    pod.tokens.add_permits(10);
    let (rest, end) = device.answer().await;
    tokens.extend(rest);
    assert_eq!(end.status, EndStatus::Ok);
    // A new question is for another gateway; the seal of the last one still goes through.
    let next = device.question(2);
    device.send(&next).await;
    let (_, refused) = device.answer().await;
    assert_eq!(
        (refused.status, refused.code),
        (EndStatus::Refused, EndCode::Draining)
    );
    device.author.d.truncate(2);
    device.seals(&tokens, &end).await;
    assert_eq!(device.closed().await, Some(CloseCode::Restart));
    assert!(drained.await.unwrap());
    assert!(TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_interrupts_what_does_not_finish() {
    let (world, pod) = with_pod(Manner::Whole, 2).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    device.token().await;
    device.token().await;
    let gateway = Arc::clone(&world.gateway);
    let drained = tokio::spawn(async move { server::drain(&gateway).await });
    let (_, end) = device.answer().await;
    // The pod closed the answer when its link ended.
    assert_eq!(end.status, EndStatus::Cancelled);
    assert_eq!(end.receipts.len(), 1);
    assert_eq!(pod.cancelled.load(Ordering::SeqCst), 1);
    assert_eq!(device.closed().await, Some(CloseCode::Restart));
    assert!(drained.await.unwrap());
}

pub async fn admin(world: &World, path: &str) -> String {
    let mut stream = TcpStream::connect(world.admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
