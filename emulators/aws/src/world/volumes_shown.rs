//! `DescribeVolumes`.

use crate::form::Form;
use crate::xml::{Element, list, text};

use super::filters::{self, Field, Page, one, tag_field};
use super::state::{Attachment, Moment, Volume};
use super::tags::tag_set;
use super::volumes::attachment_shown;
use super::{Answer, World, query, timestamp};

const FIELDS: &[&str] = &[
    "attachment.attach-time",
    "attachment.delete-on-termination",
    "attachment.device",
    "attachment.instance-id",
    "attachment.status",
    "availability-zone",
    "create-time",
    "encrypted",
    "size",
    "snapshot-id",
    "status",
    "tag-key",
    "tag-value",
    "volume-id",
    "volume-type",
];

impl World {
    pub(super) fn describe_volumes(&self, form: &Form, now: Moment) -> Answer {
        query::dry_run(form)?;
        let ids = form.list("VolumeId");
        for id in &ids {
            self.known_volume(id, now)?;
        }
        let filters = filters::filters(form)?;
        filters::check_names(&filters, FIELDS)?;
        let page = Page::read(form, 5..=1000, !ids.is_empty(), self.rules.limits.page)?;
        let mut sorted = Vec::new();
        for volume in self.state.volumes.values() {
            let named = ids.is_empty() || ids.contains(&volume.id.as_str());
            if named
                && volume.visible_at <= now
                && filters::passes(&filters, |name| volume_field(volume, name))?
            {
                sorted.push((volume.id.clone(), volume));
            }
        }
        let (volumes, token) = page.cut(sorted);
        let items = volumes.into_iter().map(|volume| self.volume_shown(volume));
        let mut answer = vec![list("volumeSet", items)];
        answer.extend(token);
        Ok(answer)
    }

    /// A volume as answers write it.
    pub(super) fn volume_shown(&self, volume: &Volume) -> Vec<Element> {
        let catalogue = &self.rules.catalogue;
        let mut shown = vec![
            text("volumeId", &volume.id),
            text("size", volume.size),
            text("snapshotId", volume.snapshot.as_deref().unwrap_or_default()),
            text("availabilityZone", &volume.zone),
            text("availabilityZoneId", catalogue.zone_id(&volume.zone)),
            text("status", volume.state.name()),
            text("createTime", timestamp(volume.created_at)),
            list(
                "attachmentSet",
                volume.attachment.iter().map(|on| {
                    let mut shown = attachment_shown(&volume.id, on);
                    shown.push(text("deleteOnTermination", on.delete_on_termination));
                    shown
                }),
            ),
            text("volumeType", &volume.kind),
            text("encrypted", volume.encrypted),
            text("multiAttachEnabled", false),
        ];
        if volume.encrypted {
            let key = volume.kms_key.clone().unwrap_or_else(|| {
                format!(
                    "arn:aws:kms:{}:{}:key/00000000-0000-4000-8000-000000000eb5",
                    catalogue.region, catalogue.account
                )
            });
            shown.push(text("kmsKeyId", key));
        }
        if let Some(iops) = volume.iops {
            shown.push(text("iops", iops));
        }
        if let Some(throughput) = volume.throughput {
            shown.push(text("throughput", throughput));
        }
        if !volume.tags.is_empty() {
            shown.push(tag_set(&volume.tags));
        }
        shown
    }
}

fn volume_field(volume: &Volume, name: &str) -> Field {
    let on = |read: fn(&Attachment) -> String| Some(volume.attachment.iter().map(read).collect());
    match name {
        "attachment.attach-time" => on(|on| timestamp(on.since)),
        "attachment.delete-on-termination" => on(|on| on.delete_on_termination.to_string()),
        "attachment.device" => on(|on| on.device.clone()),
        "attachment.instance-id" => on(|on| on.instance.clone()),
        "attachment.status" => on(|on| on.state.name().to_owned()),
        "availability-zone" => one(&volume.zone),
        "create-time" => one(timestamp(volume.created_at)),
        "encrypted" => one(volume.encrypted.to_string()),
        "size" => one(volume.size.to_string()),
        "snapshot-id" => one(volume.snapshot.as_deref().unwrap_or_default()),
        "status" => one(volume.state.name()),
        "volume-id" => one(&volume.id),
        "volume-type" => one(&volume.kind),
        _ => tag_field(&volume.tags, name),
    }
}
