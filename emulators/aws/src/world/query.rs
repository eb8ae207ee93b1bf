//! What each EC2 action may be asked, and how its parameters are read.

use crate::form::Form;

use super::error::ApiError;

/// Parameters of each action. `.N` is a number, `.*` anything beneath. `Action`, `Version` and `DryRun` are always allowed.
const PARAMETERS: &[(&str, &[&str])] = &[
    (
        "RunInstances",
        &[
            "BlockDeviceMapping.N.DeviceName",
            "BlockDeviceMapping.N.Ebs.DeleteOnTermination",
            "BlockDeviceMapping.N.Ebs.Encrypted",
            "BlockDeviceMapping.N.Ebs.Iops",
            "BlockDeviceMapping.N.Ebs.KmsKeyId",
            "BlockDeviceMapping.N.Ebs.SnapshotId",
            "BlockDeviceMapping.N.Ebs.Throughput",
            "BlockDeviceMapping.N.Ebs.VolumeSize",
            "BlockDeviceMapping.N.Ebs.VolumeType",
            "ClientToken",
            "DisableApiTermination",
            "EbsOptimized",
            "IamInstanceProfile.Arn",
            "IamInstanceProfile.Name",
            "ImageId",
            "InstanceInitiatedShutdownBehavior",
            "InstanceType",
            "KeyName",
            "MaxCount",
            "MetadataOptions.HttpEndpoint",
            "MetadataOptions.HttpPutResponseHopLimit",
            "MetadataOptions.HttpTokens",
            "MetadataOptions.InstanceMetadataTags",
            "MinCount",
            "Monitoring.Enabled",
            "NetworkInterface.N.AssociatePublicIpAddress",
            "NetworkInterface.N.DeleteOnTermination",
            "NetworkInterface.N.DeviceIndex",
            "NetworkInterface.N.SecurityGroupId.N",
            "NetworkInterface.N.SubnetId",
            "Placement.AvailabilityZone",
            "Placement.Tenancy",
            "SecurityGroupId.N",
            "SubnetId",
            "TagSpecification.N.ResourceType",
            "TagSpecification.N.Tag.N.Key",
            "TagSpecification.N.Tag.N.Value",
            "UserData",
        ],
    ),
    ("StartInstances", &["InstanceId.N"]),
    ("StopInstances", &["InstanceId.N", "Force"]),
    ("TerminateInstances", &["InstanceId.N"]),
    (
        "DescribeInstances",
        &["InstanceId.N", "Filter.*", "MaxResults", "NextToken"],
    ),
    (
        "DescribeInstanceStatus",
        &[
            "InstanceId.N",
            "Filter.*",
            "MaxResults",
            "NextToken",
            "IncludeAllInstances",
        ],
    ),
    (
        "DescribeInstanceTypes",
        &["InstanceType.N", "Filter.*", "MaxResults", "NextToken"],
    ),
    (
        "DescribeInstanceTypeOfferings",
        &["LocationType", "Filter.*", "MaxResults", "NextToken"],
    ),
    (
        "DescribeSubnets",
        &["SubnetId.N", "Filter.*", "MaxResults", "NextToken"],
    ),
    (
        "DescribeSecurityGroups",
        &[
            "GroupId.N",
            "GroupName.N",
            "Filter.*",
            "MaxResults",
            "NextToken",
        ],
    ),
    (
        "DescribeImages",
        &[
            "ImageId.N",
            "Owner.N",
            "Filter.*",
            "MaxResults",
            "NextToken",
        ],
    ),
    (
        "DescribeVolumes",
        &["VolumeId.N", "Filter.*", "MaxResults", "NextToken"],
    ),
    ("DescribeTags", &["Filter.*", "MaxResults", "NextToken"]),
    (
        "CreateVolume",
        &[
            "AvailabilityZone",
            "ClientToken",
            "Encrypted",
            "Iops",
            "KmsKeyId",
            "Size",
            "SnapshotId",
            "TagSpecification.N.ResourceType",
            "TagSpecification.N.Tag.N.Key",
            "TagSpecification.N.Tag.N.Value",
            "Throughput",
            "VolumeType",
        ],
    ),
    ("AttachVolume", &["Device", "InstanceId", "VolumeId"]),
    (
        "DetachVolume",
        &["Device", "Force", "InstanceId", "VolumeId"],
    ),
    ("DeleteVolume", &["VolumeId"]),
    ("CreateTags", &["ResourceId.N", "Tag.N.Key", "Tag.N.Value"]),
];

/// Refuses a parameter that the action does not have, so that a misspelt one is not silently ignored.
///
/// # Errors
/// `UnknownParameter`, or `MissingParameter` for one of another API version.
pub fn check_parameters(action: &str, form: &Form) -> Result<(), ApiError> {
    let Some((_, allowed)) = PARAMETERS.iter().find(|(name, _)| *name == action) else {
        return Ok(());
    };
    match form.get("Version") {
        Some("2016-11-15") => {}
        Some(other) => {
            return Err(ApiError::bad(
                "NoSuchVersion",
                format!("The requested version ({other}) of service AmazonEC2 does not exist"),
            ));
        }
        None => return Err(ApiError::missing("Version")),
    }
    for name in form.pairs().keys() {
        let known = matches!(name.as_str(), "Action" | "Version" | "DryRun")
            || allowed.iter().any(|pattern| spells(pattern, name));
        if !known {
            return Err(ApiError::bad(
                "UnknownParameter",
                format!("The parameter {name} is not recognized"),
            ));
        }
    }
    Ok(())
}

fn spells(pattern: &str, name: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix(".*") {
        return name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('.'));
    }
    let (mut patterns, mut names) = (pattern.split('.'), name.split('.'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some("N"), Some(part)) if part.parse::<u32>().is_ok_and(|number| number > 0) => {}
            (Some(wanted), Some(part)) if wanted == part => {}
            _ => return false,
        }
    }
}

/// A parameter that must be there.
///
/// # Errors
/// `MissingParameter`.
pub fn required<'a>(form: &'a Form, name: &str) -> Result<&'a str, ApiError> {
    form.get(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| ApiError::missing(name))
}

/// `true` or `false`; absent is `None`.
///
/// # Errors
/// `InvalidParameterValue`.
pub fn boolean(form: &Form, name: &str) -> Result<Option<bool>, ApiError> {
    match form.get(name) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(ApiError::value(format!(
            "Invalid value '{other}' for {name}. Expected a boolean."
        ))),
    }
}

/// A whole number from 0; absent is `None`.
///
/// # Errors
/// `InvalidParameterValue`.
pub fn number(form: &Form, name: &str) -> Result<Option<u32>, ApiError> {
    form.get(name)
        .map(|value| {
            value.parse().map_err(|_| {
                ApiError::value(format!(
                    "Invalid value '{value}' for {name}. Expected an integer."
                ))
            })
        })
        .transpose()
}

/// One of these words; absent is the first.
///
/// # Errors
/// `InvalidParameterValue`.
pub fn word(form: &Form, name: &str, words: &[&'static str]) -> Result<String, ApiError> {
    let Some(value) = form.get(name) else {
        return Ok(words.first().copied().unwrap_or_default().to_owned());
    };
    if words.contains(&value) {
        return Ok(value.to_owned());
    }
    Err(ApiError::value(format!(
        "Value ({value}) for parameter {name} is invalid. Valid values are: {}",
        words.join(", ")
    )))
}

/// Ends a call that asked for a dry run: it is well formed and permitted.
///
/// # Errors
/// `DryRunOperation` if it is one.
pub fn dry_run(form: &Form) -> Result<(), ApiError> {
    if boolean(form, "DryRun")? == Some(true) {
        return Err(ApiError::dry_run());
    }
    Ok(())
}

/// Refuses an id that does not look like one.
///
/// # Errors
/// The given code, such as `InvalidInstanceID.Malformed`.
pub fn check_id(id: &str, prefix: &str, code: &'static str) -> Result<(), ApiError> {
    let well_formed = id
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|hex| {
            matches!(hex.len(), 8 | 17) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
    if well_formed {
        return Ok(());
    }
    Err(ApiError::bad(
        code,
        format!("Invalid id: \"{id}\" (expecting \"{prefix}-...\")"),
    ))
}
