//! A question and its answer: steps 0 to 3.

use std::path::Path;
use std::time::Duration;

use halo_receipts::ids::{Epoch, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{RootKeys, RootSecret, TenantKeys as _};
use serde_json::Value;

use super::data::Data;
use super::log::{detail, line, parsed, step, succeeded, succeeded_status, text};
use super::services::Services;
use super::{Capture, DemoError, LONG, SOON, Settings, TENANT};
use crate::processes::{Programs, Running};

/// The session of the first conversation, and what the log says of it later.
pub(super) struct Session {
    pub(super) id: SessionId,
    /// The answer's halo_tier_response.
    pub(super) response: ReceiptId,
    /// Who signed it.
    pub(super) tier: Tier,
}

pub(super) async fn converse(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
    loaded: &Value,
) -> Result<Session, DemoError> {
    let (what, file) = match &settings.capture {
        Capture::Image(path) => ("--image", path.clone()),
        Capture::Wav(path) => ("--wav", path.clone()),
        Capture::Sample => ("--wav", data.path("question.wav")),
    };
    if let Capture::Sample = settings.capture {
        sample(programs, what, &file).await?;
    }
    let mut pair = Pair::start(settings, data, programs, services, "", what, &file, &[]).await?;
    let opened = pair.phone_says("session_opened", SOON, |_| {}).await?;
    let id: SessionId = parsed(&opened, "session_id")?;
    let epoch = Epoch(parsed(&opened, "session_epoch")?);
    let model = text(loaded, "model")?;
    line(&format!(
        "session_id = {id}, tenant_id = {TENANT}, model = {model}"
    ));
    derive_keys(data, &id, epoch)?;

    let mut captures = Vec::new();
    let see = |event: &Value| {
        if event["event"] == "capture_verified" {
            captures.push(event.clone());
        }
    };
    let routed = pair.phone_says("routed", SOON, see).await?;
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

    detail(&format!("prompt: '{}'", settings.prompt));
    let answer = if text(&routed, "decision")? == "escalate" {
        let answer = pair.phone_says("answer", LONG, |_| {}).await?;
        tell_answer(&answer, loaded, model)?;
        Some(answer)
    } else {
        let answer = pair.phone_says("local_answer", SOON, |_| {}).await?;
        step(
            "3/5",
            "TIER 1: answered on the phone",
            text(&answer, "text")?,
        );
        None
    };
    let sealed = pair.phone_says("sealed", SOON, |_| {}).await?;
    pair.finish().await?;
    // What the phone answered by itself has no receipt of tier 2; its seal is the answer's own receipt.
    let response = parsed(answer.as_ref().unwrap_or(&sealed), "receipt_id")?;
    let tier = match answer {
        Some(_) => Tier::Substrate,
        None => Tier::Orchestrator,
    };
    Ok(Session { id, response, tier })
}

fn tell_answer(answer: &Value, loaded: &Value, model: &str) -> Result<(), DemoError> {
    step(
        "3/5",
        &format!("TIER 2: load {model}"),
        &format!(
            "model loaded in {} s, weights sha256 {:.16}..",
            loaded["seconds"],
            text(loaded, "weights_sha256")?
        ),
    );
    detail(&format!(
        "generated {} tokens in {} s = {} tok/s",
        answer["tokens"], answer["seconds"], answer["tok_per_s"]
    ));
    detail(&format!("decoded: '{}'", text(answer, "text")?));
    detail(&format!("receipt {}", text(answer, "receipt_id")?));
    Ok(())
}

/// The phone and the glasses that are paired with it, as programs.
pub(super) struct Pair {
    phone: Running,
    pub(super) glasses: Running,
}

impl Pair {
    /// Starts both; `label` tells their logs from those of another pair, `more` are flags for the glasses.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is said once, where the pair is started"
    )]
    pub(super) async fn start(
        settings: &Settings,
        data: &Data,
        programs: &Programs,
        services: &Services,
        label: &str,
        what: &str,
        file: &Path,
        more: &[String],
    ) -> Result<Self, DemoError> {
        let mut phone = start_phone(settings, data, programs, services, &format!("tier1{label}"))?;
        let listening = phone.wait_for("listening", SOON, |_| {}).await?;
        let label = format!("tier0{label}");
        let glasses = start_glasses(data, programs, &label, &listening, what, file, more)?;
        Ok(Self { phone, glasses })
    }

    /// Waits until the phone reports `event`, unless the glasses end badly before.
    pub(super) async fn phone_says(
        &mut self,
        event: &str,
        limit: Duration,
        see: impl FnMut(&Value),
    ) -> Result<Value, DemoError> {
        tokio::select! {
            biased;
            said = self.phone.wait_for(event, limit, see) => Ok(said?),
            failed = self.glasses.failed() => Err(failed.into()),
        }
    }

    /// Waits until both have ended well.
    pub(super) async fn finish(mut self) -> Result<(), DemoError> {
        succeeded_status("the phone", self.phone.wait().await?)?;
        succeeded_status("the glasses", self.glasses.wait().await?)
    }
}

/// Derives the three tier keys of the session from the root, as every holder of a root can.
fn derive_keys(data: &Data, session: &SessionId, epoch: Epoch) -> Result<(), DemoError> {
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

fn start_phone(
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

fn start_glasses(
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
