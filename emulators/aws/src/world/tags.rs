//! Tags: specifications of new things, `CreateTags`, `DescribeTags`.

use std::collections::BTreeMap;

use crate::form::Form;
use crate::xml::{Element, list, text};

use super::error::ApiError;
use super::filters::{self, Page, one};
use super::state::{Moment, Tags};
use super::{Answer, Step, World, query};

/// The most tags of one resource.
const MAX_TAGS: usize = 50;

const FIELDS: &[&str] = &["key", "resource-id", "resource-type", "value"];

/// Tags of new things by resource type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Specified(BTreeMap<String, Tags>);

impl Specified {
    /// Those of one resource type.
    pub fn of(&self, kind: &str) -> Tags {
        self.0.get(kind).cloned().unwrap_or_default()
    }

    /// Whether nothing is to be tagged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads `TagSpecification.N`.
///
/// # Errors
/// A resource type that the action does not make, a key twice, a reserved or too long key, too many tags.
pub fn specified(form: &Form, kinds: &[&str]) -> Result<Specified, ApiError> {
    let mut found: BTreeMap<String, Tags> = BTreeMap::new();
    for specification in form.structures("TagSpecification") {
        let kind = query::required(&specification, "ResourceType")?;
        if !kinds.contains(&kind) {
            return Err(ApiError::value(format!(
                "'{kind}' is not a valid taggable resource type for this operation."
            )));
        }
        let tags = read(&specification)?;
        if tags.is_empty() {
            return Err(ApiError::value(
                "Tag specification must have at least one tag",
            ));
        }
        if found.insert(kind.to_owned(), tags).is_some() {
            return Err(ApiError::value(format!(
                "Duplicate tag specification for the resource type '{kind}'"
            )));
        }
    }
    Ok(Specified(found))
}

fn read(form: &Form) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for tag in form.structures("Tag") {
        let key = query::required(&tag, "Key")?;
        let value = tag.get("Value").unwrap_or_default();
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::value(format!(
                "Tag keys starting with 'aws:' are reserved for internal use: '{key}'"
            )));
        }
        if key.chars().count() > 127 || value.chars().count() > 255 {
            return Err(ApiError::value(format!(
                "Tag key or value of '{key}' exceeds the maximum length of 127 and 255 characters"
            )));
        }
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(ApiError::value(format!(
                "Duplicate tag key '{key}' specified."
            )));
        }
    }
    if tags.len() > MAX_TAGS {
        return Err(too_many());
    }
    Ok(tags)
}

fn too_many() -> ApiError {
    ApiError::bad(
        "TagLimitExceeded",
        format!("The maximum number of tags per resource is {MAX_TAGS}"),
    )
}

impl World {
    pub(super) fn create_tags(&mut self, form: &Form, now: Moment) -> Answer {
        let ids = form.list("ResourceId");
        let added = read(form)?;
        if ids.is_empty() {
            return Err(ApiError::missing("ResourceId"));
        }
        if added.is_empty() {
            return Err(ApiError::missing("Tag"));
        }
        query::dry_run(form)?;
        // All or nothing.
        let mut changed = Vec::new();
        for id in &ids {
            let mut tags = self.tags_of_resource(id, now)?;
            tags.extend(added.clone());
            if tags.len() > MAX_TAGS {
                return Err(too_many());
            }
            changed.push(((*id).to_owned(), tags));
        }
        for (id, tags) in changed {
            if let Some(instance) = self.state.instances.get_mut(&id) {
                instance.tags = tags;
            } else if let Some(volume) = self.state.volumes.get_mut(&id) {
                volume.tags = tags;
            } else {
                self.state.other_tags.insert(id, tags);
            }
        }
        self.touch();
        Ok(vec![text("return", true)])
    }

    fn tags_of_resource(&self, id: &str, now: Moment) -> Result<Tags, ApiError> {
        if id.starts_with("i-") {
            return Ok(self.known(id, now)?.tags.clone());
        }
        if id.starts_with("vol-") {
            return Ok(self.known_volume(id, now)?.tags.clone());
        }
        let catalogue = &self.rules.catalogue;
        let own = if let Some(subnet) = catalogue.subnet(id) {
            &subnet.tags
        } else if let Some(group) = catalogue.security_group(id) {
            &group.tags
        } else if catalogue.image(id).is_some() || catalogue.snapshot(id).is_some() {
            &Tags::new()
        } else {
            return Err(ApiError::bad(
                "InvalidID",
                format!("The ID '{id}' is not valid"),
            ));
        };
        let mut tags = own.clone();
        tags.extend(self.state.other_tags.get(id).cloned().unwrap_or_default());
        Ok(tags)
    }

    pub(super) fn describe_tags(&self, form: &Form, now: Moment) -> Answer {
        query::dry_run(form)?;
        let filters = filters::filters(form)?;
        for filter in &filters {
            // Here `tag:KEY` is a field as well; it has its own meaning.
            if !filter.name.starts_with("tag:") {
                filters::check_names(std::slice::from_ref(filter), FIELDS)?;
            }
        }
        let page = Page::read(form, 5..=1000, false, self.rules.limits.page)?;
        let catalogue = &self.rules.catalogue;
        let instances = self
            .state
            .instances
            .values()
            .filter(|i| i.visible_at <= now);
        let volumes = self.state.volumes.values().filter(|v| v.visible_at <= now);
        let subnets = catalogue
            .subnets
            .iter()
            .map(|subnet| (&subnet.id, &subnet.tags));
        let groups = catalogue
            .security_groups
            .iter()
            .map(|group| (&group.id, &group.tags));
        let tagged = instances
            .map(|instance| (&instance.id, &instance.tags))
            .chain(volumes.map(|volume| (&volume.id, &volume.tags)))
            .chain(subnets)
            .chain(groups)
            .chain(self.state.other_tags.iter());
        let mut sorted = BTreeMap::new();
        for (id, tags) in tagged {
            for (key, value) in tags {
                let kind = resource_type(id);
                let passed = filters::passes(&filters, |name| match name {
                    "key" => one(key),
                    "value" => one(value),
                    "resource-id" => one(id),
                    "resource-type" => one(kind),
                    _ => {
                        let wanted = name.strip_prefix("tag:")?;
                        Some(if wanted == key {
                            vec![value.clone()]
                        } else {
                            Vec::new()
                        })
                    }
                })?;
                if passed {
                    sorted.insert(format!("{id} {key}"), (id, kind, key, value));
                }
            }
        }
        let (tags, token) = page.cut(sorted.into_iter().collect());
        let mut answer = vec![list(
            "tagSet",
            tags.into_iter().map(|(id, kind, key, value)| {
                vec![
                    text("resourceId", id),
                    text("resourceType", kind),
                    text("key", key),
                    text("value", value),
                ]
            }),
        )];
        answer.extend(token);
        Ok(answer)
    }

    /// Tags that the admin endpoint puts on an instance or volume; whether it is there.
    pub fn tag_out_of_band(&mut self, id: &str, added: &Tags, step: &mut Step<'_>) -> bool {
        self.advance(step);
        let tags = match (
            self.state.instances.get_mut(id),
            self.state.volumes.get_mut(id),
        ) {
            (Some(instance), _) => &mut instance.tags,
            (None, Some(volume)) => &mut volume.tags,
            (None, None) => return false,
        };
        tags.extend(added.clone());
        self.touch();
        true
    }
}

fn resource_type(id: &str) -> &'static str {
    match id.split('-').next() {
        Some("i") => "instance",
        Some("vol") => "volume",
        Some("subnet") => "subnet",
        Some("sg") => "security-group",
        Some("ami") => "image",
        _ => "snapshot",
    }
}

/// Tags as answers write them.
pub(super) fn tag_set(tags: &Tags) -> Element {
    list(
        "tagSet",
        tags.iter()
            .map(|(key, value)| vec![text("key", key), text("value", value)]),
    )
}
