//! The whole traits against the emulator, which keeps AWS's promises and no others.

mod asking;
mod disks;
mod launching;
mod life;

use std::time::Duration;

use halo_aws_emulator::{Config, Credentials, Emulator};
use halo_cloud::{Cloud as _, CloudError, Instance, InstanceId, InstanceState, LaunchRequest};

use crate::script::{self, Clients, SECRET_KEY};

/// What waits for the world waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

const IMAGE: &str = "ami-00000000000133001";

/// An emulator that takes no signature but that of the tests' key, and clients for it.
fn start(mut config: Config) -> (Emulator, Clients) {
    config.credentials = Some(Credentials {
        id: "AKIDEXAMPLE".to_owned(),
        secret: SECRET_KEY.to_owned(),
    });
    let emulator = Emulator::start(config).unwrap();
    let clients = script::clients(script::settings(&emulator.url()));
    (emulator, clients)
}

/// A launch that the emulator's catalogue can do.
fn launch(token: &str) -> LaunchRequest {
    LaunchRequest {
        image_id: IMAGE.to_owned(),
        subnet_id: "subnet-0000000000000000a".to_owned(),
        security_groups: vec!["sg-00000000000000001".to_owned()],
        ..script::launch(token)
    }
}

/// Asks until the answer is one to go on with.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: not in time"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the cloud shows an instance in a state.
async fn until_state(clients: &Clients, id: &InstanceId, state: InstanceState) -> Instance {
    until(&format!("{id} is {state:?}"), || async {
        let all = clients.cloud.instances(&script::tags(&[])).await.unwrap();
        all.into_iter()
            .find(|one| one.id == *id && one.state == state)
    })
    .await
}

/// Code and failure of an error.
fn what<T>(result: Result<T, CloudError>) -> Option<(halo_cloud::Failure, String)> {
    result.err().map(|error| (error.failure, error.code))
}
