//! `GetParameter`, `GetParameters`, `PutParameter`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::error::ApiError;
use super::state::{Moment, ParameterKind, ParameterVersion, StoredValue};
use super::{Step, World};

/// The most characters of a standard parameter's value.
const MAX_VALUE: usize = 4_096;

/// The most names of one `GetParameters`.
const MAX_NAMES: usize = 10;

impl World {
    pub(super) fn answer_ssm(
        &mut self,
        action: &str,
        body: &Value,
        step: &mut Step<'_>,
    ) -> Result<Value, ApiError> {
        let body = body
            .as_object()
            .ok_or_else(|| ApiError::bad("SerializationException", "the body is not an object"))?;
        match action {
            "GetParameter" => self.get_parameter(body),
            "GetParameters" => self.get_parameters(body),
            "PutParameter" => self.put_parameter(body, step.now),
            _ => Err(ApiError::bad(
                "UnknownOperationException",
                format!("the operation {action} does not exist"),
            )),
        }
    }

    fn get_parameter(&self, body: &Map<String, Value>) -> Result<Value, ApiError> {
        check_fields(body, &["Name", "WithDecryption"])?;
        let selector = string(body, "Name")?.ok_or_else(|| invalid("Name must not be null"))?;
        let decrypt = boolean(body, "WithDecryption")?;
        let (name, _) = split(selector);
        self.permit_ssm("ssm:GetParameter", name)?;
        let version = self.version_of(selector)?;
        Ok(json!({ "Parameter": self.parameter_shown(selector, &version, decrypt)? }))
    }

    fn get_parameters(&self, body: &Map<String, Value>) -> Result<Value, ApiError> {
        check_fields(body, &["Names", "WithDecryption"])?;
        let names = body
            .get("Names")
            .and_then(Value::as_array)
            .filter(|names| !names.is_empty() && names.len() <= MAX_NAMES)
            .ok_or_else(|| invalid(format!("Names must have 1 to {MAX_NAMES} members")))?;
        let decrypt = boolean(body, "WithDecryption")?;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for selector in names {
            let selector = selector
                .as_str()
                .ok_or_else(|| invalid("Names must be strings"))?;
            self.permit_ssm("ssm:GetParameters", split(selector).0)?;
            match self.version_of(selector) {
                Ok(version) => found.push(self.parameter_shown(selector, &version, decrypt)?),
                Err(_) => missing.push(selector),
            }
        }
        Ok(json!({ "Parameters": found, "InvalidParameters": missing }))
    }

    fn put_parameter(&mut self, body: &Map<String, Value>, now: Moment) -> Result<Value, ApiError> {
        check_fields(
            body,
            &[
                "Name",
                "Value",
                "Type",
                "Overwrite",
                "KeyId",
                "Description",
                "Tier",
                "Tags",
                "DataType",
            ],
        )?;
        let name = string(body, "Name")?.ok_or_else(|| invalid("Name must not be null"))?;
        let value = string(body, "Value")?.ok_or_else(|| invalid("Value must not be null"))?;
        let overwrite = boolean(body, "Overwrite")?;
        self.permit_ssm("ssm:PutParameter", name)?;
        check_name(name)?;
        if value.is_empty() || value.len() > MAX_VALUE {
            return Err(ApiError::bad(
                "ValidationException",
                format!(
                    "Standard tier parameters support a maximum parameter value of {MAX_VALUE} characters, and at least one."
                ),
            ));
        }
        let kind = match string(body, "Type")? {
            None => None,
            Some("String") => Some(ParameterKind::String),
            Some("StringList") => Some(ParameterKind::StringList),
            Some("SecureString") => Some(ParameterKind::SecureString),
            Some(_) => {
                return Err(ApiError::bad(
                    "UnsupportedParameterType",
                    "The parameter type is not supported.",
                ));
            }
        };
        let exists = self.state.parameters.get(name).and_then(|all| all.last());
        let kind = match (kind, exists) {
            (_, Some(_)) if !overwrite => {
                return Err(ApiError::bad(
                    "ParameterAlreadyExists",
                    "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.",
                ));
            }
            (Some(kind), _) => kind,
            (None, Some(latest)) => latest.kind,
            (None, None) => {
                return Err(ApiError::bad(
                    "ValidationException",
                    "A parameter type is required when you create a parameter.",
                ));
            }
        };
        let key = string(body, "KeyId")?;
        if key.is_some() && kind != ParameterKind::SecureString {
            return Err(ApiError::bad(
                "ValidationException",
                "KeyId is required for SecureString type parameter only.",
            ));
        }
        if kind == ParameterKind::SecureString && self.is_denied("kms:Encrypt") {
            return Err(self.denied_key("kms:Encrypt"));
        }
        let version = self.store_parameter(name, value, kind, key, now);
        Ok(json!({ "Version": version, "Tier": "Standard" }))
    }

    /// Adds a version; returns its number.
    pub(super) fn store_parameter(
        &mut self,
        name: &str,
        value: &str,
        kind: ParameterKind,
        key: Option<&str>,
        now: Moment,
    ) -> u64 {
        let versions = self.state.parameters.entry(name.to_owned()).or_default();
        let version = versions.last().map_or(1, |latest| latest.version + 1);
        let key = key.unwrap_or("alias/aws/ssm");
        versions.push(ParameterVersion {
            version,
            kind,
            value: StoredValue(value.to_owned()),
            key: (kind == ParameterKind::SecureString).then(|| key.to_owned()),
            modified_at: now,
        });
        // The real one keeps a hundred.
        if versions.len() > 100 {
            versions.remove(0);
        }
        self.touch();
        version
    }

    /// What a selector names: the latest version, or `NAME:VERSION`.
    fn version_of(&self, selector: &str) -> Result<ParameterVersion, ApiError> {
        let (name, version) = split(selector);
        let public = self.rules.catalogue.public_parameters.get(name);
        if let Some(value) = public.filter(|_| version.is_none_or(|version| version == "1")) {
            return Ok(ParameterVersion {
                version: 1,
                kind: ParameterKind::String,
                value: StoredValue(value.clone()),
                key: None,
                modified_at: 0,
            });
        }
        let versions = self
            .state
            .parameters
            .get(name)
            .filter(|versions| !versions.is_empty())
            // AWS says no more than the code.
            .ok_or_else(|| ApiError::bad("ParameterNotFound", ""))?;
        let found = match version {
            None => versions.last(),
            Some(wanted) => versions
                .iter()
                .find(|version| version.version.to_string() == wanted),
        };
        found.cloned().ok_or_else(|| {
            ApiError::bad(
                "ParameterVersionNotFound",
                format!(
                    "Systems Manager could not find version {} of {name}. Verify the version and try again.",
                    version.unwrap_or_default()
                ),
            )
        })
    }

    fn parameter_shown(
        &self,
        selector: &str,
        of: &ParameterVersion,
        decrypt: bool,
    ) -> Result<Value, ApiError> {
        let (name, version) = split(selector);
        let catalogue = &self.rules.catalogue;
        let secure = of.kind == ParameterKind::SecureString;
        if secure && decrypt && self.is_denied("kms:Decrypt") {
            return Err(self.denied_key("kms:Decrypt"));
        }
        let value = if secure && !decrypt {
            ciphertext(name, of)
        } else {
            of.value.0.clone()
        };
        let account = if name.starts_with("/aws/") {
            ""
        } else {
            catalogue.account.as_str()
        };
        let mut shown = json!({
            "ARN": format!("arn:aws:ssm:{}:{account}:parameter/{}", catalogue.region, name.trim_start_matches('/')),
            "DataType": "text",
            "LastModifiedDate": of.modified_at as f64 / 1e6,
            "Name": name,
            "Type": of.kind.name(),
            "Value": value,
            "Version": of.version,
        });
        if let (Some(version), Some(fields)) = (version, shown.as_object_mut()) {
            fields.insert("Selector".to_owned(), json!(format!(":{version}")));
        }
        Ok(shown)
    }

    fn permit_ssm(&self, iam: &str, name: &str) -> Result<(), ApiError> {
        if !self.is_denied(iam) {
            return Ok(());
        }
        let catalogue = &self.rules.catalogue;
        Err(denied(format!(
            "User: arn:aws:sts::{0}:assumed-role/halo/emulator is not authorized to perform: {iam} on resource: \
             arn:aws:ssm:{1}:{0}:parameter/{2} because no identity-based policy allows the {iam} action",
            catalogue.account,
            catalogue.region,
            name.trim_start_matches('/')
        )))
    }

    fn denied_key(&self, iam: &str) -> ApiError {
        denied(format!(
            "User: arn:aws:sts::{}:assumed-role/halo/emulator is not authorized to perform: {iam} on the resource associated \
             with this ciphertext because no identity-based policy allows the {iam} action (Service: AWSKMS; Status Code: 400; \
             Error Code: AccessDeniedException)",
            self.rules.catalogue.account
        ))
    }
}

fn denied(message: String) -> ApiError {
    ApiError::bad("AccessDeniedException", message)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::bad("ValidationException", message)
}

/// Name and version of `NAME` or `NAME:VERSION`.
fn split(selector: &str) -> (&str, Option<&str>) {
    match selector.split_once(':') {
        Some((name, version)) => (name, Some(version)),
        None => (selector, None),
    }
}

/// What a reader without the key sees: bytes that say nothing of the value but its length.
fn ciphertext(name: &str, of: &ParameterVersion) -> String {
    let mut bytes = b"\x01\x02\x02\x00".to_vec();
    let length = of.value.0.len() + 64;
    let mut block = 0u32;
    while bytes.len() < length {
        let mut digest = Sha256::new();
        digest.update(b"ciphertext of an emulator");
        digest.update(name.as_bytes());
        digest.update(of.version.to_be_bytes());
        digest.update(of.modified_at.to_be_bytes());
        digest.update(block.to_be_bytes());
        bytes.extend_from_slice(&digest.finalize());
        block += 1;
    }
    bytes.truncate(length);
    STANDARD.encode(bytes)
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-/".contains(character);
    let deep = name.matches('/').count() > 15;
    if name.is_empty() || name.len() > 1_011 || !name.chars().all(allowed) || deep {
        return Err(invalid(
            "Parameter name must be a fully qualified name of letters, numbers and ._-/ with at most 15 levels.",
        ));
    }
    // A hierarchy is spelt from its root.
    if name.contains('/') && !name.starts_with('/') {
        return Err(invalid("Parameter name must be a fully qualified name."));
    }
    let root = name.trim_start_matches('/').to_ascii_lowercase();
    if root.starts_with("aws") || root.starts_with("ssm") {
        return Err(ApiError::bad(
            "AccessDeniedException",
            format!("No access to reserved parameter name: {name}."),
        ));
    }
    Ok(())
}

fn check_fields(body: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    match body.keys().find(|key| !known.contains(&key.as_str())) {
        // The real service ignores what it does not know; a misspelt field is worth a failure here.
        Some(unknown) => Err(ApiError::bad(
            "SerializationException",
            format!("the field {unknown} is not known"),
        )),
        None => Ok(()),
    }
}

fn string<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(_) => Err(ApiError::bad(
            "SerializationException",
            format!("{name} is not a string"),
        )),
    }
}

fn boolean(body: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(ApiError::bad(
            "SerializationException",
            format!("{name} is not a boolean"),
        )),
    }
}
