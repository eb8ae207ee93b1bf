//! The programs that stay up for the whole demo: the substrate and the gateway.

use std::net::SocketAddr;

use serde_json::Value;

use super::data::Data;
use super::log::{parsed, succeeded};
use super::{DEVICE, DemoError, LONG, SOON, Settings, TENANT};
use crate::processes::{Programs, Running};

/// The programs that stay up for the whole demo.
pub(super) struct Services {
    pub(super) substrate: Running,
    pub(super) gateway: Running,
    pub(super) gateway_url: String,
}

pub(super) async fn start_services(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
) -> Result<(Services, Value), DemoError> {
    // The first program that is given the demo root makes it; the others read the same file.
    let credential = programs
        .run(
            "halo-gateway",
            [
                "enroll",
                "--demo-root",
                &data.text("root"),
                "--tenant",
                TENANT,
                "--device",
                DEVICE,
            ],
        )
        .await?;
    let credential = succeeded("enrolling the device", credential)?;
    data.write("credential.json", &credential)?;
    succeeded(
        "pairing glasses and phone",
        programs
            .run("halo-tier1", ["pair", "--out", &data.text("pairing.key")])
            .await?,
    )?;
    write_certificate(data)?;

    let mut arguments = vec![
        "--model".to_owned(),
        settings.model.display().to_string(),
        "--listen".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--tenant".to_owned(),
        TENANT.to_owned(),
        "--ledger".to_owned(),
        data.ledger("ledger.db"),
        "--demo-root".to_owned(),
        data.text("root"),
        "--model-name".to_owned(),
        settings.model_name.clone(),
    ];
    if let Some(tokenizer) = &settings.tokenizer {
        arguments.extend(["--tokenizer".to_owned(), tokenizer.display().to_string()]);
    }
    let mut substrate = programs.start("halo-substrate", "substrate", arguments)?;
    let listening = substrate.wait_for("listening", SOON, |_| {}).await?;
    let pod: SocketAddr = parsed(&listening, "addr")?;
    data.write("gateway.toml", gateway_config(data, pod))?;
    let mut gateway = programs.start(
        "halo-gateway",
        "gateway",
        [
            "serve",
            "--config",
            &data.text("gateway.toml"),
            "--demo-root",
            &data.text("root"),
        ],
    )?;
    let listening = gateway.wait_for("listening", SOON, |_| {}).await?;
    let address: SocketAddr = parsed(&listening, "addr")?;
    let loaded = substrate.wait_for("loaded", LONG, |_| {}).await?;
    let services = Services {
        substrate,
        gateway,
        gateway_url: format!("https://localhost:{}", address.port()),
    };
    Ok((services, loaded))
}

/// A certificate for `localhost` that the gateway shows and the phone trusts, made anew for each run.
pub(super) fn write_certificate(data: &Data) -> Result<(), DemoError> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    data.write("tls.crt", certified.cert.pem())?;
    data.write("tls.key", certified.signing_key.serialize_pem())
}

pub(super) fn gateway_config(data: &Data, pod: SocketAddr) -> String {
    // TOML basic strings take the same escapes as JSON ones.
    let text = |value: String| Value::String(value).to_string();
    format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nledger = {}\n\n\
         [tls]\ncertificate = {}\nkey = {}\n\n\
         [[tenants]]\nid = \"{TENANT}\"\nsubstrate = \"ws://{pod}\"\n",
        text(data.ledger("ledger.db")),
        text(data.text("tls.crt")),
        text(data.text("tls.key")),
    )
}
