//! A cache of one kind: what a watch said, and what the operator's own writes returned before the watch said it.
//!
//! The API server counts versions of an object up. What is older than what is known is not taken, so that an answer to a write and the
//! watch may come in any order.

use std::collections::{BTreeMap, BTreeSet};

/// Namespace (empty for kinds without) and name.
pub type ObjectKey = (String, String);

/// A key.
pub fn key(namespace: Option<&str>, name: &str) -> ObjectKey {
    (namespace.unwrap_or_default().to_owned(), name.to_owned())
}

/// One object.
#[derive(Debug, Clone)]
struct Entry<V> {
    version: u64,
    uid: String,
    /// The version that the operator's own write made, if that is what is known.
    own: bool,
    value: V,
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The object is new or differs.
    Changed,
    /// An event of a version between; something changed that the newer version holds as well.
    Passed,
    /// Nothing that is kept differs, or it is the echo of an own write.
    Same,
}

/// A cache of one kind.
#[derive(Debug)]
pub struct Store<V> {
    objects: BTreeMap<ObjectKey, Entry<V>>,
    /// What a list that is under way has named so far.
    listing: Option<BTreeSet<ObjectKey>>,
}

impl<V> Default for Store<V> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
        }
    }
}

/// The version as a number; 0 if it is none, which then is older than all.
pub fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl<V: PartialEq> Store<V> {
    /// An object.
    pub fn get(&self, key: &ObjectKey) -> Option<&V> {
        self.objects.get(key).map(|entry| &entry.value)
    }

    /// The value and its uid.
    pub fn with_uid(&self, uid: &str) -> Option<&V> {
        let found = self.objects.values().find(|entry| entry.uid == uid);
        found.map(|entry| &entry.value)
    }

    /// All objects.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.objects.values().map(|entry| &entry.value)
    }

    /// Objects of a namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a V> {
        self.objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((at, _), _)| at == namespace)
            .map(|(_, entry)| &entry.value)
    }

    /// Names and objects of a namespace.
    pub fn keys_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a V)> {
        self.objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((at, _), _)| at == namespace)
            .map(|((_, name), entry)| (name.as_str(), &entry.value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Takes what a watch said. `value` is made from what was known of the same object, if anything.
    pub fn watched(
        &mut self,
        key: ObjectKey,
        uid: &str,
        version: u64,
        value: impl FnOnce(Option<&V>) -> V,
    ) -> Change {
        let known = self.objects.get(&key).filter(|known| known.uid == uid);
        if let Some(known) = known {
            if version < known.version {
                return Change::Passed;
            }
            if version == known.version && version > 0 && known.own {
                return Change::Same;
            }
        }
        let value = value(known.map(|known| &known.value));
        let same = known.is_some_and(|known| known.value == value);
        self.put(key, uid, version, false, value);
        if same { Change::Same } else { Change::Changed }
    }

    /// Takes what a list said; all of it counts as changed.
    pub fn listed(
        &mut self,
        key: ObjectKey,
        uid: &str,
        version: u64,
        value: impl FnOnce(Option<&V>) -> V,
    ) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.watched(key, uid, version, value);
    }

    /// Takes what the operator's own write returned.
    pub fn wrote(
        &mut self,
        key: ObjectKey,
        uid: &str,
        version: u64,
        value: impl FnOnce(Option<&V>) -> V,
    ) {
        let known = self.objects.get(&key).filter(|known| known.uid == uid);
        if known.is_some_and(|known| version < known.version) {
            return;
        }
        let value = value(known.map(|known| &known.value));
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.put(key, uid, version, true, value);
    }

    fn put(&mut self, key: ObjectKey, uid: &str, version: u64, own: bool, value: V) {
        let entry = Entry {
            version,
            uid: uid.to_owned(),
            own,
            value,
        };
        self.objects.insert(key, entry);
    }

    /// Forgets an object; not one of the same name that was made since.
    pub fn gone(&mut self, key: &ObjectKey, uid: &str) -> bool {
        let there = self.objects.get(key).is_some_and(|known| known.uid == uid);
        if there {
            self.objects.remove(key);
        }
        there
    }

    /// A list begins.
    pub fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// A list is complete: what it did not name is gone.
    pub fn complete(&mut self) -> Vec<(ObjectKey, V)> {
        let Some(listed) = self.listing.take() else {
            return Vec::new();
        };
        let gone: Vec<_> = self
            .objects
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        gone.into_iter()
            .filter_map(|key| {
                let entry = self.objects.remove(&key)?;
                Some((key, entry.value))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> ObjectKey {
        key(Some("ns"), name)
    }

    #[test]
    fn an_own_write_is_not_news_and_nothing_older_is_taken() {
        let mut store = Store::default();
        assert_eq!(store.watched(at("a"), "u", 1, |_| 10), Change::Changed);
        store.wrote(at("a"), "u", 3, |_| 30);
        assert_eq!(store.watched(at("a"), "u", 2, |_| 20), Change::Passed);
        assert_eq!(store.get(&at("a")), Some(&30));
        assert_eq!(store.watched(at("a"), "u", 3, |_| 99), Change::Same);
        assert_eq!(store.get(&at("a")), Some(&30));
        assert_eq!(store.watched(at("a"), "u", 4, |_| 30), Change::Same);
        assert_eq!(store.watched(at("a"), "u", 5, |_| 50), Change::Changed);
        store.wrote(at("a"), "u", 4, |_| 40);
        assert_eq!(store.get(&at("a")), Some(&50));
    }

    #[test]
    fn an_object_of_the_same_name_is_another() {
        let mut store = Store::default();
        store.watched(at("a"), "old", 9, |_| 1);
        // Made anew: its versions begin where the server's are.
        assert_eq!(
            store.watched(at("a"), "new", 2, |known| {
                assert_eq!(known, None);
                2
            }),
            Change::Changed
        );
        assert!(!store.gone(&at("a"), "old"));
        assert_eq!(store.get(&at("a")), Some(&2));
        assert!(store.gone(&at("a"), "new"));
        assert!(store.is_empty());
    }

    #[test]
    fn a_complete_list_forgets_what_it_does_not_name() {
        let mut store = Store::default();
        for name in ["a", "b", "c"] {
            store.watched(at(name), name, 1, |_| name.to_owned());
        }
        store.begin();
        store.listed(at("a"), "a", 1, |_| "a".to_owned());
        // Made by ourselves while the list was under way.
        store.wrote(at("d"), "d", 7, |_| "d".to_owned());
        let gone: Vec<_> = store.complete().into_iter().map(|(_, name)| name).collect();
        assert_eq!(gone, ["b", "c"]);
        assert_eq!(store.in_namespace("ns").count(), 2);
        assert_eq!(store.in_namespace("n").count(), 0);
        assert!(store.complete().is_empty());
    }

    #[test]
    fn versions_that_are_no_numbers_are_older_than_all() {
        for (text, number) in [(None, 0), (Some("x"), 0), (Some("17"), 17)] {
            assert_eq!(version(text), number);
        }
    }
}
