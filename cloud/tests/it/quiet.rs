//! What must not be logged, at any level.

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use halo_cloud::{Cloud as _, Secrets as _};
use tracing_subscriber::fmt::MakeWriter;

use crate::script::{Reply, SECRET_KEY, Server, clients, instance, launch, launched, settings};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn neither_bodies_nor_credentials_are_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::new(|n, seen| match (n, seen.action()) {
        (0, _) => Reply::error(500, "InternalError", ""),
        (_, "RunInstances") => launched(&instance("i-1", "pending", &[])),
        _ => Reply::ok(
            r#"{"Parameter":{"Type":"SecureString","Value":"the-root-of-all","Version":1}}"#,
        ),
    })
    .await;
    let clients = clients(settings(&server.url));
    let request = launch("t-1");
    clients.cloud.launch(&request).await.unwrap();
    let root = clients
        .secrets
        .parameter("/halo/root", None)
        .await
        .ok()
        .unwrap();
    assert_eq!(root.value.as_slice(), b"the-root-of-all");

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    // It does listen.
    assert!(
        log.contains("AWS call") && log.contains("RunInstances") && log.contains("signing request"),
        "{log}"
    );
    let encoded = base64::engine::general_purpose::STANDARD.encode(&request.user_data);
    for secret in [
        "the-user-data",
        &encoded[..20],
        SECRET_KEY,
        "session-token-of-the-test",
        "the-root-of-all",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
