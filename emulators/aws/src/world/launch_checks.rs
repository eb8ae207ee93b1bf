//! What a launch may ask for: everything that it names exists and fits together.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::catalogue::{Image, InstanceType, Subnet};
use crate::form::Form;

use super::error::ApiError;
use super::query::{self, boolean, number, required, word};
use super::state::Metadata;
use super::volumes::Disk;
use super::{World, tags};

/// The most bytes of user data, before base64.
const MAX_USER_DATA: usize = 16_384;

/// A launch that is well formed and names only things that exist.
pub(super) struct Launch<'a> {
    pub(super) kind: &'a InstanceType,
    pub(super) image: &'a Image,
    pub(super) subnet: &'a Subnet,
    pub(super) tenancy: String,
    pub(super) groups: Vec<String>,
    pub(super) disks: Vec<Disk>,
    pub(super) user_data: String,
    pub(super) metadata: Metadata,
    pub(super) profile: Option<String>,
    pub(super) specified: tags::Specified,
    pub(super) least: u32,
    pub(super) most: u32,
    pub(super) client_token: String,
    pub(super) key_name: Option<String>,
    pub(super) ebs_optimized: bool,
    pub(super) monitoring: bool,
    pub(super) protected: bool,
}

impl World {
    /// Whether everything that a launch names exists and fits together.
    pub(super) fn check_launch<'a>(
        &'a self,
        form: &Form,
        specified: tags::Specified,
    ) -> Result<Launch<'a>, ApiError> {
        let catalogue = &self.rules.catalogue;
        let least = number(form, "MinCount")?.unwrap_or(0);
        let most = number(form, "MaxCount")?.unwrap_or(0);
        if least == 0 || most < least {
            return Err(ApiError::value(format!(
                "Invalid value '{least}' for MinCount with MaxCount '{most}'."
            )));
        }
        let type_name = required(form, "InstanceType")?;
        let kind = catalogue.instance_type(type_name).ok_or_else(|| {
            ApiError::value(format!("Invalid value '{type_name}' for InstanceType."))
        })?;
        let image = self.launch_image(form, kind)?;
        let subnet = self.launch_subnet(form, kind)?;
        let groups = self.launch_groups(form)?;
        if !kind.zones.contains(&subnet.zone) {
            return Err(ApiError::bad(
                "Unsupported",
                format!(
                    "Your requested instance type ({type_name}) is not supported in your requested Availability Zone ({}). \
                     Please retry your request by not specifying an Availability Zone or choosing {}.",
                    subnet.zone,
                    kind.zones.join(", ")
                ),
            ));
        }
        let tenancy = word(form, "Placement.Tenancy", &["default", "dedicated"])?;
        if tenancy == "dedicated" && !kind.dedicated {
            return Err(ApiError::bad(
                "Unsupported",
                "The requested configuration is currently not supported. Please check the documentation for supported \
                 configurations.",
            ));
        }
        let behaviours = ["stop", "terminate"];
        word(form, "InstanceInitiatedShutdownBehavior", &behaviours)?;
        let switch = ["enabled", "disabled"];
        let hop_limit = number(form, "MetadataOptions.HttpPutResponseHopLimit")?.unwrap_or(1);
        if !(1..=64).contains(&hop_limit) {
            return Err(ApiError::value(format!(
                "Value ({hop_limit}) for parameter HttpPutResponseHopLimit is invalid. Expecting a value between 1 and 64."
            )));
        }
        Ok(Launch {
            kind,
            image,
            subnet,
            tenancy,
            groups,
            disks: self.launch_disks(form, image)?,
            user_data: user_data(form)?,
            metadata: Metadata {
                tokens: word(
                    form,
                    "MetadataOptions.HttpTokens",
                    &["optional", "required"],
                )?,
                hop_limit,
                endpoint: word(form, "MetadataOptions.HttpEndpoint", &switch)?,
                tags: word(
                    form,
                    "MetadataOptions.InstanceMetadataTags",
                    &["disabled", "enabled"],
                )?,
            },
            profile: self.launch_profile(form)?,
            specified,
            least,
            most,
            client_token: form.get("ClientToken").unwrap_or_default().to_owned(),
            key_name: form.get("KeyName").map(str::to_owned),
            ebs_optimized: boolean(form, "EbsOptimized")?.unwrap_or(false),
            monitoring: boolean(form, "Monitoring.Enabled")?.unwrap_or(false),
            protected: boolean(form, "DisableApiTermination")?.unwrap_or(false),
        })
    }

    fn launch_image(&self, form: &Form, kind: &InstanceType) -> Result<&Image, ApiError> {
        let id = required(form, "ImageId")?;
        query::check_id(id, "ami", "InvalidAMIID.Malformed")?;
        let image = self.rules.catalogue.image(id).ok_or_else(|| {
            ApiError::bad(
                "InvalidAMIID.NotFound",
                format!("The image id '[{id}]' does not exist"),
            )
        })?;
        if image.architecture != kind.architecture {
            return Err(ApiError::value(format!(
                "The architecture '{}' of the specified instance type does not match the architecture '{}' of the \
                 specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
                kind.architecture, image.architecture
            )));
        }
        Ok(image)
    }

    fn launch_subnet(&self, form: &Form, kind: &InstanceType) -> Result<&Subnet, ApiError> {
        let catalogue = &self.rules.catalogue;
        let zone = form.get("Placement.AvailabilityZone");
        if let Some(zone) = zone
            && !catalogue.zones.iter().any(|known| known.name == zone)
        {
            return Err(ApiError::value(format!(
                "Invalid availability zone: [{zone}]"
            )));
        }
        if let Some(id) = subnet_id(form) {
            let subnet = catalogue.subnet(id).ok_or_else(|| {
                ApiError::bad(
                    "InvalidSubnetID.NotFound",
                    format!("The subnet ID '{id}' does not exist"),
                )
            })?;
            if let Some(zone) = zone
                && zone != subnet.zone
            {
                return Err(ApiError::value(format!(
                    "Value ({zone}) for parameter availabilityZone is invalid. Subnet '{id}' is in the availability zone {}",
                    subnet.zone
                )));
            }
            return Ok(subnet);
        }
        catalogue
            .subnets
            .iter()
            .find(|subnet| match zone {
                Some(zone) => zone == subnet.zone,
                None => kind.zones.contains(&subnet.zone),
            })
            .ok_or_else(|| {
                ApiError::bad(
                    "MissingInput",
                    "No subnets found for the default VPC. Please specify a subnet.",
                )
            })
    }

    fn launch_groups(&self, form: &Form) -> Result<Vec<String>, ApiError> {
        let catalogue = &self.rules.catalogue;
        let interfaces = form.structures("NetworkInterface");
        let mut groups: Vec<String> = form
            .list("SecurityGroupId")
            .into_iter()
            .map(str::to_owned)
            .collect();
        if !interfaces.is_empty() && (!groups.is_empty() || form.get("SubnetId").is_some()) {
            return Err(ApiError::bad(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same \
                 request",
            ));
        }
        if interfaces.len() > 1 {
            return Err(ApiError::value(
                "This emulator launches instances with one network interface only.",
            ));
        }
        for interface in &interfaces {
            groups.extend(
                interface
                    .list("SecurityGroupId")
                    .into_iter()
                    .map(str::to_owned),
            );
        }
        if groups.is_empty() {
            let default = catalogue
                .security_groups
                .iter()
                .find(|group| group.name == "default");
            groups.extend(default.map(|group| group.id.clone()));
        }
        for id in &groups {
            if catalogue.security_group(id).is_none() {
                return Err(ApiError::bad(
                    "InvalidGroup.NotFound",
                    format!("The security group '{id}' does not exist"),
                ));
            }
        }
        Ok(groups)
    }

    fn launch_profile(&self, form: &Form) -> Result<Option<String>, ApiError> {
        let (name, arn) = (
            form.get("IamInstanceProfile.Name"),
            form.get("IamInstanceProfile.Arn"),
        );
        let name = match (name, arn) {
            (None, None) => return Ok(None),
            (Some(name), None) => name,
            (None, Some(arn)) => arn.rsplit('/').next().unwrap_or(arn),
            (Some(_), Some(_)) => {
                return Err(ApiError::bad(
                    "InvalidParameterCombination",
                    "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'",
                ));
            }
        };
        let known = &self.rules.catalogue.instance_profiles;
        if known
            .as_ref()
            .is_some_and(|names| !names.iter().any(|known| known == name))
        {
            return Err(ApiError::value(format!(
                "Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
            )));
        }
        Ok(Some(name.to_owned()))
    }
}

/// The subnet that a launch names, in either of the two places.
pub(super) fn subnet_id(form: &Form) -> Option<&str> {
    form.get("SubnetId")
        .or_else(|| form.get("NetworkInterface.1.SubnetId"))
}

fn user_data(form: &Form) -> Result<String, ApiError> {
    let sent = form.get("UserData").unwrap_or_default();
    let decoded = STANDARD
        .decode(sent)
        .map_err(|_| ApiError::value("Invalid BASE64 encoding of user data."))?;
    if decoded.len() > MAX_USER_DATA {
        return Err(ApiError::value("User data is limited to 16384 bytes"));
    }
    Ok(sent.to_owned())
}
