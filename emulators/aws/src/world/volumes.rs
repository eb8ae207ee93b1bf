//! `CreateVolume`, `AttachVolume`, `DetachVolume`, `DeleteVolume`, and the disks of a launch.

use crate::catalogue::Image;
use crate::form::Form;
use crate::xml::{Element, text};

use super::error::ApiError;
use super::query::{self, boolean, number, required, word};
use super::state::{
    Attachment, AttachmentState, InstanceState, Moment, TokenUse, Volume, VolumeState,
};
use super::tokens::{check_token, fingerprint, mismatch};
use super::{Answer, Step, World, later, tags, timestamp};

const KINDS: &[&str] = &["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"];

/// A disk of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Such as `/dev/xvda`.
    pub device: String,
    /// GiB.
    pub size: u32,
    /// Such as `gp3`.
    pub kind: String,
    /// Operations a second.
    pub iops: Option<u32>,
    /// MiB a second.
    pub throughput: Option<u32>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// With which key.
    pub kms_key: Option<String>,
    /// The snapshot it begins as.
    pub snapshot: Option<String>,
    /// Whether it ends with its instance.
    pub delete_on_termination: bool,
}

impl World {
    /// The disks of a launch: the root, as the image has it unless the request says otherwise, and those that the request adds.
    pub(super) fn launch_disks(&self, form: &Form, image: &Image) -> Result<Vec<Disk>, ApiError> {
        let mut root = Disk {
            device: image.root_device.clone(),
            size: image.root_gib,
            kind: "gp3".to_owned(),
            iops: Some(3_000),
            throughput: Some(125),
            encrypted: false,
            kms_key: None,
            snapshot: Some(image.snapshot.clone()),
            delete_on_termination: true,
        };
        let mut more = Vec::new();
        for mapping in form.structures("BlockDeviceMapping") {
            let device = required(&mapping, "DeviceName")?.to_owned();
            let ebs = mapping.structure("Ebs");
            if ebs.is_empty() {
                return Err(block_device(format!(
                    "The device '{device}' has no ebs block"
                )));
            }
            if device == root.device {
                root = self.disk(&ebs, device, &root)?;
                if root.size < image.root_gib {
                    return Err(block_device(format!(
                        "Volume of size {}GB is smaller than snapshot '{}', expect size >= {}GB",
                        root.size, image.snapshot, image.root_gib
                    )));
                }
                continue;
            }
            if more.iter().any(|disk: &Disk| disk.device == device) {
                return Err(block_device(format!("Duplicate device name '{device}'")));
            }
            let blank = Disk {
                size: 0,
                snapshot: None,
                ..root.clone()
            };
            let disk = self.disk(&ebs, device, &blank)?;
            if disk.size == 0 {
                return Err(ApiError::bad(
                    "MissingParameter",
                    "The request must contain the parameter size or snapshotId",
                ));
            }
            more.push(disk);
        }
        more.insert(0, root);
        Ok(more)
    }

    fn disk(&self, ebs: &Form, device: String, otherwise: &Disk) -> Result<Disk, ApiError> {
        let shape = self.shape(ebs, "VolumeSize", "gp3")?;
        Ok(Disk {
            device,
            size: shape.size.unwrap_or(otherwise.size),
            kind: shape.kind,
            iops: shape.iops,
            throughput: shape.throughput,
            encrypted: shape.encrypted || otherwise.encrypted,
            kms_key: shape.kms_key,
            snapshot: shape.snapshot.or_else(|| otherwise.snapshot.clone()),
            delete_on_termination: boolean(ebs, "DeleteOnTermination")?.unwrap_or(true),
        })
    }

    /// What a request says of one volume, checked against what such volumes can be.
    fn shape(&self, form: &Form, size: &str, kind: &'static str) -> Result<Shape, ApiError> {
        let mut kinds = vec![kind];
        kinds.extend(KINDS.iter().filter(|other| **other != kind));
        let kind = word(form, "VolumeType", &kinds)?;
        let snapshot = form.get("SnapshotId").filter(|id| !id.is_empty());
        let mut size = number(form, size)?;
        if let Some(id) = snapshot {
            let known = self.rules.catalogue.snapshot(id).ok_or_else(|| {
                ApiError::bad(
                    "InvalidSnapshot.NotFound",
                    format!("The snapshot '{id}' does not exist."),
                )
            })?;
            let least = *size.get_or_insert(known.size);
            if least < known.size {
                return Err(ApiError::value(format!(
                    "Volume of {least}GiB is too small for snapshot {id}, expect at least {}GiB.",
                    known.size
                )));
            }
        }
        if let Some(size) = size
            && !(1..=65_536).contains(&size)
        {
            return Err(ApiError::value(format!(
                "Volume size of {size} GiB is invalid. Expecting a value between 1 and 65536."
            )));
        }
        let (mut iops, mut throughput) = (number(form, "Iops")?, number(form, "Throughput")?);
        if kind == "gp3" {
            iops.get_or_insert(3_000);
            throughput.get_or_insert(125);
        } else if throughput.is_some() {
            return Err(ApiError::bad(
                "InvalidParameterCombination",
                format!("The parameter throughput is not supported for {kind} volumes."),
            ));
        }
        for (name, value, bounds) in [
            ("iops", iops, 100..=256_000),
            ("iops", iops.filter(|_| kind == "gp3"), 3_000..=80_000),
            ("throughput", throughput, 125..=2_000),
        ] {
            if let Some(value) = value
                && !bounds.contains(&value)
            {
                return Err(ApiError::value(format!(
                    "Volume {name} of {value} is invalid. Expecting a value between {} and {}.",
                    bounds.start(),
                    bounds.end()
                )));
            }
        }
        let kms_key = form.get("KmsKeyId").map(str::to_owned);
        let encrypted = boolean(form, "Encrypted")?.unwrap_or(false);
        if kms_key.is_some() && !encrypted {
            return Err(ApiError::bad(
                "InvalidParameterDependency",
                "The parameter KmsKeyId requires the parameter Encrypted to be set.",
            ));
        }
        Ok(Shape {
            size,
            kind,
            iops,
            throughput,
            encrypted,
            kms_key,
            snapshot: snapshot.map(str::to_owned),
        })
    }

    pub(super) fn create_volume(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let zone = required(form, "AvailabilityZone")?.to_owned();
        let specified = tags::specified(form, &["volume"])?;
        if !specified.is_empty() {
            self.permit("ec2:CreateTags")?;
        }
        query::dry_run(form)?;
        let token = form.get("ClientToken").filter(|token| !token.is_empty());
        let fingerprint = fingerprint(form);
        if let Some(token) = token {
            check_token(token)?;
            if let Some(earlier) = self.state.volume_tokens.get(token) {
                if earlier.fingerprint != fingerprint {
                    return Err(mismatch());
                }
                let made = earlier
                    .made
                    .first()
                    .and_then(|id| self.state.volumes.get(id));
                return match made {
                    Some(volume) => Ok(self.volume_shown(volume)),
                    None => Err(volume_not_found(
                        earlier.made.first().map_or("", String::as_str),
                    )),
                };
            }
        }
        if !self
            .rules
            .catalogue
            .zones
            .iter()
            .any(|known| known.name == zone)
        {
            return Err(ApiError::bad(
                "InvalidZone.NotFound",
                format!("The zone '{zone}' does not exist."),
            ));
        }
        let shape = self.shape(form, "Size", "gp2")?;
        let size = shape.size.ok_or_else(|| {
            ApiError::bad(
                "MissingParameter",
                "The request must contain the parameter size or snapshotId",
            )
        })?;
        if let Some(limit) = self.rules.limits.volumes
            && self.state.volumes.len() >= limit as usize
        {
            return Err(ApiError::bad(
                "VolumeLimitExceeded",
                format!("You have exceeded your limit of {limit} volumes."),
            ));
        }
        let timings = self.rules.timings;
        let volume = Volume {
            id: self.fresh_id("vol", step.random),
            state: VolumeState::Creating,
            due: Some(later(step.now, timings.volume_ms)),
            visible_at: later(step.now, timings.visible_after_ms),
            created_at: step.now,
            zone,
            size,
            kind: shape.kind,
            iops: shape.iops,
            throughput: shape.throughput,
            encrypted: shape.encrypted,
            kms_key: shape.kms_key,
            snapshot: shape.snapshot,
            tags: specified.of("volume"),
            attachment: None,
        };
        if let Some(token) = token {
            let made = vec![volume.id.clone()];
            let used = TokenUse { fingerprint, made };
            self.state.volume_tokens.insert(token.to_owned(), used);
        }
        let answer = self.volume_shown(&volume);
        self.state.volumes.insert(volume.id.clone(), volume);
        self.touch();
        Ok(answer)
    }

    pub(super) fn attach_volume(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let device = required(form, "Device")?.to_owned();
        let id = required(form, "VolumeId")?.to_owned();
        let instance_id = required(form, "InstanceId")?.to_owned();
        query::check_id(&instance_id, "i", "InvalidInstanceID.Malformed")?;
        let volume = self.known_volume(&id, step.now)?;
        let instance = self.known(&instance_id, step.now)?;
        query::dry_run(form)?;
        if volume.zone != instance.zone {
            return Err(ApiError::bad(
                "InvalidVolume.ZoneMismatch",
                format!(
                    "The volume '{id}' is not in the same availability zone as instance '{instance_id}'"
                ),
            ));
        }
        match volume.state {
            VolumeState::Available => {}
            VolumeState::InUse => {
                return Err(ApiError::bad(
                    "VolumeInUse",
                    format!("{id} is already attached to an instance"),
                ));
            }
            VolumeState::Creating | VolumeState::Deleting => {
                return Err(ApiError::bad(
                    "IncorrectState",
                    format!("{id} is not 'available'."),
                ));
            }
        }
        if !matches!(
            instance.state,
            InstanceState::Running | InstanceState::Stopped
        ) {
            return Err(ApiError::bad(
                "IncorrectState",
                format!("Instance '{instance_id}' is not 'running'."),
            ));
        }
        let taken = |other: &&Volume| {
            other
                .attachment
                .as_ref()
                .is_some_and(|on| on.device == device)
        };
        if self.state.volumes_of(&instance_id).iter().any(taken) {
            return Err(ApiError::value(format!(
                "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
            )));
        }
        let attachment = Attachment {
            instance: instance_id,
            device,
            state: AttachmentState::Attaching,
            since: step.now,
            due: Some(later(step.now, self.rules.timings.volume_ms)),
            delete_on_termination: false,
        };
        let answer = attachment_shown(&id, &attachment);
        if let Some(volume) = self.state.volumes.get_mut(&id) {
            volume.state = VolumeState::InUse;
            volume.attachment = Some(attachment);
            self.touch();
        }
        Ok(answer)
    }

    pub(super) fn detach_volume(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let id = required(form, "VolumeId")?.to_owned();
        let volume = self.known_volume(&id, step.now)?;
        query::dry_run(form)?;
        let Some(on) = &volume.attachment else {
            return Err(ApiError::bad(
                "IncorrectState",
                format!("Volume '{id}' is in the '{}' state.", volume.state.name()),
            ));
        };
        let elsewhere = form
            .get("InstanceId")
            .is_some_and(|named| named != on.instance)
            || form.get("Device").is_some_and(|named| named != on.device);
        if elsewhere {
            return Err(ApiError::bad(
                "InvalidAttachment.NotFound",
                format!("The volume '{id}' is not attached to the given instance and device"),
            ));
        }
        if on.state == AttachmentState::Detaching {
            return Err(ApiError::bad(
                "IncorrectState",
                format!("Volume '{id}' is detaching."),
            ));
        }
        let root_of_living = self
            .state
            .instances
            .get(&on.instance)
            .is_some_and(|instance| {
                instance.root_device == on.device && instance.state != InstanceState::Stopped
            });
        if root_of_living {
            return Err(ApiError::bad(
                "OperationNotPermitted",
                format!(
                    "Unable to detach root volume '{id}' from instance '{}'",
                    on.instance
                ),
            ));
        }
        let due = later(step.now, self.rules.timings.volume_ms);
        let Some(on) = self
            .state
            .volumes
            .get_mut(&id)
            .and_then(|volume| volume.attachment.as_mut())
        else {
            return Err(volume_not_found(&id));
        };
        on.state = AttachmentState::Detaching;
        on.since = step.now;
        on.due = Some(due);
        let answer = attachment_shown(&id, on);
        self.touch();
        Ok(answer)
    }

    pub(super) fn delete_volume(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let id = required(form, "VolumeId")?.to_owned();
        let volume = self.known_volume(&id, step.now)?;
        query::dry_run(form)?;
        match (volume.state, &volume.attachment) {
            (VolumeState::Available, _) => {}
            (VolumeState::InUse, on) => {
                let instance = on.as_ref().map_or("an instance", |on| on.instance.as_str());
                return Err(ApiError::bad(
                    "VolumeInUse",
                    format!("Volume {id} is currently attached to {instance}"),
                ));
            }
            (VolumeState::Creating, _) => {
                return Err(ApiError::bad(
                    "IncorrectState",
                    format!("{id} is not 'available'."),
                ));
            }
            (VolumeState::Deleting, _) => return Err(volume_not_found(&id)),
        }
        let due = later(step.now, self.rules.timings.volume_ms);
        if let Some(volume) = self.state.volumes.get_mut(&id) {
            volume.state = VolumeState::Deleting;
            volume.due = Some(due);
            self.touch();
        }
        Ok(vec![text("return", true)])
    }

    /// A volume, if calls know it by now.
    pub(super) fn known_volume(&self, id: &str, now: Moment) -> Result<&Volume, ApiError> {
        query::check_id(id, "vol", "InvalidVolumeID.Malformed")?;
        self.state
            .volumes
            .get(id)
            .filter(|volume| volume.visible_at <= now)
            .ok_or_else(|| volume_not_found(id))
    }
}

/// What a request says of one volume.
struct Shape {
    size: Option<u32>,
    kind: String,
    iops: Option<u32>,
    throughput: Option<u32>,
    encrypted: bool,
    kms_key: Option<String>,
    snapshot: Option<String>,
}

fn block_device(message: String) -> ApiError {
    ApiError::bad("InvalidBlockDeviceMapping", message)
}

/// `InvalidVolume.NotFound`.
pub(super) fn volume_not_found(id: &str) -> ApiError {
    ApiError::bad(
        "InvalidVolume.NotFound",
        format!("The volume '{id}' does not exist."),
    )
}

/// An attachment as answers write it.
pub(super) fn attachment_shown(volume: &str, on: &Attachment) -> Vec<Element> {
    vec![
        text("volumeId", volume),
        text("instanceId", &on.instance),
        text("device", &on.device),
        text("status", on.state.name()),
        text("attachTime", timestamp(on.since)),
    ]
}
