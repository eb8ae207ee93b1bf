//! Devices at a gateway in a cluster: who may open a session follows the API server without a restart.

use std::net::SocketAddr;

use halo_e2e_cluster::eventually;
use halo_receipts::ids::DeviceId;
use halo_receipts::opening::{Nonce, OpenRequest, SESSIONS_PATH, signature};
use halo_receipts::time::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{DEADLINE, World, id, root, secret, tenant};

/// One request over a connection of its own; status and body.
async fn http(address: SocketAddr, head: String, body: &[u8]) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{head}host: gateway\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

/// Opens a session as a device that was enrolled under the root of this number.
async fn open(address: SocketAddr, tenant: &str, device: &str, enrolled: u8) -> (u16, Value) {
    static NONCE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NONCE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let device: DeviceId = device.parse().unwrap();
    let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap();
    let request = OpenRequest {
        tenant_id: id(tenant),
        device_id: device.clone(),
        device_generation: 1,
        timestamp: Timestamp::from_micros(now).unwrap(),
        nonce: Nonce(nonce),
    };
    let body = serde_json::to_vec(&request).unwrap();
    let enroll = root(enrolled).enroll_key(&id(tenant), u32::from(enrolled));
    let signed = signature(&enroll.device_key(&device, 1), "POST", SESSIONS_PATH, &body);
    let head = format!("POST {SESSIONS_PATH} HTTP/1.1\r\nhalo-signature: {signed}\r\n");
    let (status, answer) = http(address, head, &body).await;
    (status, serde_json::from_str(&answer).unwrap_or_default())
}

#[track_caller]
fn opens(
    address: SocketAddr,
    tenant: &'static str,
    device: &'static str,
    enrolled: u8,
    expected: u16,
) -> impl Future<Output = Value> {
    eventually(DEADLINE, move || async move {
        match open(address, tenant, device, enrolled).await {
            (status, answer) if status == expected => Ok(answer),
            (status, _) => Err(format!("{status}")),
        }
    })
}

#[tokio::test]
async fn a_revocation_takes_effect_without_a_restart() {
    let world = World::shared().await;
    for name in ["revoking", "neighbour"] {
        world.tenant(name).await;
    }
    let gateway = world.gateway("gateway-0", |_| {}).await;
    let address = gateway.serve().await.address;
    for (name, device) in [("revoking", "a"), ("revoking", "b"), ("neighbour", "a")] {
        assert_eq!(
            open(address, name, device, 1).await.0,
            201,
            "{name} {device}"
        );
    }
    assert_eq!(open(address, "stranger", "a", 1).await.0, 401);
    assert_eq!(open(address, "revoking", "a", 9).await.0, 401);

    let mut revoking = tenant("revoking");
    revoking["spec"]["devices"] = json!({"revoked": ["a"]});
    world.apply(&[revoking.clone()]).await;
    opens(address, "revoking", "a", 1, 401).await;
    assert_eq!(open(address, "revoking", "b", 1).await.0, 201);
    assert_eq!(open(address, "neighbour", "a", 1).await.0, 201);
    // Keys of an older generation than the tenant wants.
    revoking["spec"]["devices"] = json!({"minimumGeneration": 2});
    world.apply(&[revoking]).await;
    opens(address, "revoking", "b", 1, 401).await;
    world.apply(&[tenant("revoking")]).await;
    opens(address, "revoking", "a", 1, 201).await;
    world.delete(&tenant("revoking")).await;
    opens(address, "revoking", "a", 1, 401).await;
    assert_eq!(open(address, "neighbour", "a", 1).await.0, 201);
}

#[tokio::test]
async fn a_change_of_the_root_refuses_nobody_before_the_overlap_ends() {
    let world = World::shared().await;
    world.tenant("rotating").await;
    let gateway = world.gateway("gateway-0", |_| {}).await;
    let address = gateway.serve().await.address;
    let (status, answer) = open(address, "rotating", "a", 1).await;
    assert_eq!((status, &answer["root_generation"]), (201, &json!(1)));
    world.apply(&[secret("rotating", &[1, 2])]).await;
    // Who was enrolled under the new root is known as soon as it is, and who was under the old one still is.
    opens(address, "rotating", "new", 2, 201).await;
    let (status, answer) = open(address, "rotating", "a", 1).await;
    assert_eq!((status, &answer["root_generation"]), (201, &json!(2)));
    world.apply(&[secret("rotating", &[2])]).await;
    opens(address, "rotating", "a", 1, 401).await;
    assert_eq!(open(address, "rotating", "new", 2).await.0, 201);
}

#[tokio::test]
async fn a_gateway_that_does_not_know_yet_refuses_nobody_for_good() {
    let world = World::shared().await;
    world.tenant("early").await;
    // It may not list Secrets there, so that it never knows all.
    let gateway = world
        .gateway_unsynced("gateway-0", |s| s.namespace = "default".to_owned())
        .await;
    let served = gateway.serve().await;
    assert_eq!(open(served.address, "early", "a", 1).await.0, 503);
    let get = |path: &str| http(served.admin, format!("GET {path} HTTP/1.1\r\n"), b"");
    let (status, words) = get("/readyz").await;
    assert_eq!(status, 503);
    assert!(words.contains("not known yet"), "{words}");
    assert_eq!(get("/healthz").await.0, 200);
    eventually(DEADLINE, || async {
        let failures = gateway.metric("halo_gateway_watch_failures_total{kind=\"Secret\"}");
        match failures >= 2.0 {
            true => Ok(()),
            false => Err(failures.to_string()),
        }
    })
    .await;
    let other = world.gateway("gateway-3", |_| {}).await.serve().await;
    let ready = http(other.admin, "GET /readyz HTTP/1.1\r\n".to_owned(), b"").await;
    assert_eq!(ready, (200, "ready\n".to_owned()));
}
