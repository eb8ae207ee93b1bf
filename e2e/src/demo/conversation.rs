//! A question and its answer: steps 0 to 3.

use std::path::Path;

use halo_receipts::ids::{Epoch, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{RootKeys, RootSecret, TenantKeys as _};
use serde_json::Value;

use super::data::Data;
use super::log::{detail, parsed, step, succeeded, succeeded_status, text};
use super::services::Services;
use super::{Capture, DemoError, LONG, SOON, Settings, TENANT};
use crate::processes::{Programs, Running};

/// The session of the first conversation, and what the log says of it later.
pub(super) struct Session {
    pub(super) id: SessionId,
    /// Tier 2's halo_tier_response.
    pub(super) response: ReceiptId,
}

pub(super) async fn converse(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
    loaded: &Value,
) -> Result<Session, DemoError> {
    let mut phone = start_phone(settings, data, programs, services, "tier1").await?;
    let listening = phone.wait_for("listening", SOON, |_| {}).await?;
    let mut glasses = match &settings.capture {
        Capture::Image(path) => {
            start_glasses(data, programs, "tier0", &listening, "--image", path, &[])?
        }
        Capture::Wav(path) => {
            start_glasses(data, programs, "tier0", &listening, "--wav", path, &[])?
        }
        Capture::Sample => {
            let wav = data.path("question.wav");
            sample(programs, "--wav", &wav).await?;
            start_glasses(data, programs, "tier0", &listening, "--wav", &wav, &[])?
        }
    };
    let opened = phone.wait_for("session_opened", SOON, |_| {}).await?;
    let id: SessionId = parsed(&opened, "session_id")?;
    let epoch = Epoch(parsed(&opened, "session_epoch")?);
    let model = text(loaded, "model")?;
    println!("session_id = {id}, tenant_id = {TENANT}, model = {model}");
    derive_keys(data, &id, epoch)?;

    let mut captures = Vec::new();
    let see = |event: &Value| {
        if event["event"] == "capture_verified" {
            captures.push(event.clone());
        }
    };
    let routed = phone.wait_for("routed", SOON, see).await?;
    for captured in &captures {
        step(
            "1/5",
            &format!("TIER 0: sensor capture, {}", text(captured, "kind")?),
            &format!(
                "{} frames, {} bytes, signed and verified",
                captured["frames"], captured["bytes"]
            ),
        );
        detail(&format!(
            "receipt {}  hmac {}",
            text(captured, "receipt_id")?,
            text(captured, "hmac")?
        ));
    }
    step(
        "2/5",
        &format!("TIER 1: routing decision, {}", text(&routed, "decision")?),
        text(&routed, "reason")?,
    );
    detail(&format!(
        "receipt {}  parent {} (the T0 capture)",
        text(&routed, "receipt_id")?,
        text(&routed, "parent")?
    ));

    let answer = phone.wait_for("answer", LONG, |_| {}).await?;
    step(
        "3/5",
        &format!("TIER 2: load {model}"),
        &format!(
            "model loaded in {} s, weights sha256 {:.16}..",
            loaded["seconds"],
            text(loaded, "weights_sha256")?
        ),
    );
    detail(&format!("prompt: '{}'", settings.prompt));
    detail(&format!(
        "generated {} tokens in {} s = {} tok/s",
        answer["tokens"], answer["seconds"], answer["tok_per_s"]
    ));
    detail(&format!("decoded: '{}'", text(&answer, "text")?));
    let response: ReceiptId = parsed(&answer, "receipt_id")?;
    detail(&format!("receipt {response}"));
    phone.wait_for("sealed", SOON, |_| {}).await?;
    succeeded_status("the phone", phone.wait().await?)?;
    succeeded_status("the glasses", glasses.wait().await?)?;
    Ok(Session { id, response })
}

/// Derives the three tier keys of the session from the root, as every holder of a root can.
pub(super) fn derive_keys(data: &Data, session: &SessionId, epoch: Epoch) -> Result<(), DemoError> {
    let keys = RootKeys::new(RootSecret::new(data.read("root")?)?, 1, true);
    let tenant: TenantId = TENANT.parse().map_err(|error| DemoError::Step {
        step: "[0/5]",
        what: format!("{error}"),
    })?;
    let session_key = keys
        .session_key(&tenant, session, epoch)
        .ok_or(DemoError::Step {
            step: "[0/5]",
            what: "the root holds no key for this tenant".to_owned(),
        })?;
    let bytes = Tier::ALL.map(|tier| session_key.tier_key(tier).expose().len());
    step(
        "0/5",
        "derive HKDF keys",
        &format!(
            "TIER_KEY[0..{}] derived ({}B each)",
            bytes.len() - 1,
            bytes[0]
        ),
    );
    Ok(())
}

pub(super) async fn start_phone(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
    label: &str,
) -> Result<Running, DemoError> {
    let arguments = [
        "serve".to_owned(),
        "--gateway".to_owned(),
        services.gateway_url.clone(),
        "--ca".to_owned(),
        data.text("tls.crt"),
        "--credential".to_owned(),
        data.text("credential.json"),
        "--pairing-key".to_owned(),
        data.text("pairing.key"),
        "--listen".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--transcript".to_owned(),
        settings.prompt.clone(),
        "--max-tokens".to_owned(),
        settings.tokens.to_string(),
        "--once".to_owned(),
        "--json".to_owned(),
    ];
    Ok(programs.start("halo-tier1", label, arguments)?)
}

pub(super) fn start_glasses(
    data: &Data,
    programs: &Programs,
    label: &str,
    listening: &Value,
    what: &str,
    file: &Path,
    more: &[String],
) -> Result<Running, DemoError> {
    let mut arguments = vec![
        "--connect".to_owned(),
        format!("ws://{}", text(listening, "addr")?),
        "--pairing-key".to_owned(),
        data.text("pairing.key"),
        "--json".to_owned(),
        what.to_owned(),
        file.display().to_string(),
    ];
    arguments.extend_from_slice(more);
    Ok(programs.start("halo-tier0", label, arguments)?)
}

/// Has the sensor's program write sample media.
pub(super) async fn sample(programs: &Programs, what: &str, file: &Path) -> Result<(), DemoError> {
    let file = file.display().to_string();
    let made = programs.run("halo-tier0", ["sample", what, &file]).await?;
    succeeded("writing a sample capture", made).map(|_| ())
}
