//! Which experts of a mixture-of-experts model were used.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex;

/// A set of experts for each layer of a model, as one bitmap a layer. Expert `i` is bit `i % 8`, counted from the least
/// significant, of byte `i / 8`. In JSON a list of hexadecimal bitmaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertSet {
    experts: usize,
    layers: Vec<Vec<u8>>,
}

impl ExpertSet {
    /// No expert of a model with this many layers, each with `experts` experts.
    pub fn new(layers: usize, experts: usize) -> Self {
        Self {
            experts,
            layers: vec![vec![0; experts.div_ceil(8)]; layers],
        }
    }

    /// Adds an expert; returns whether it was new. An expert or layer that does not exist is not added.
    pub fn insert(&mut self, layer: usize, expert: usize) -> bool {
        let bit = 1 << (expert % 8);
        match self
            .layers
            .get_mut(layer)
            .and_then(|bytes| bytes.get_mut(expert / 8))
        {
            Some(byte) if expert < self.experts => {
                let new = *byte & bit == 0;
                *byte |= bit;
                new
            }
            _ => false,
        }
    }

    /// Whether an expert is in the set.
    pub fn contains(&self, layer: usize, expert: usize) -> bool {
        let byte = self
            .layers
            .get(layer)
            .and_then(|bytes| bytes.get(expert / 8));
        byte.is_some_and(|byte| byte & (1 << (expert % 8)) != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The number of experts in the set, over all layers.
    pub fn count(&self) -> usize {
        let ones = |bytes: &Vec<u8>| bytes.iter().map(|b| b.count_ones() as usize).sum::<usize>();
        self.layers.iter().map(ones).sum()
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The experts of one layer, rising.
    pub fn layer(&self, layer: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.experts).filter(move |&expert| self.contains(layer, expert))
    }
}

impl Serialize for ExpertSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.layers.iter().map(|bytes| hex::encode(bytes)))
    }
}

impl<'de> Deserialize<'de> for ExpertSet {
    /// The number of experts is not written; it is taken as eight for each byte.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let layers = Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| hex::decode_vec(text.as_bytes()))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| serde::de::Error::custom("expected hexadecimal bitmaps"))?;
        let width = layers.first().map_or(0, Vec::len);
        if layers.iter().any(|bytes| bytes.len() != width) {
            return Err(serde::de::Error::custom("the bitmaps differ in width"));
        }
        Ok(Self {
            experts: 8 * width,
            layers,
        })
    }
}
