//! Merkle tree hashes of RFC 6962 section 2.1 over the hashes of receipts.

use sha2::{Digest as _, Sha256};

use crate::ids::Hash;

/// Computes the root as leaves arrive, with one hash kept for each level.
#[derive(Debug, Clone, Default)]
pub struct MerkleTree {
    /// The roots of the full subtrees, largest first, with the number of leaves of each.
    subtrees: Vec<(u64, Hash)>,
    leaves: u64,
}

impl MerkleTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a leaf whose data is the 32 bytes of `hash`.
    pub fn push(&mut self, hash: &Hash) {
        self.push_data(&hash.0);
    }

    /// Appends a leaf with any data.
    pub fn push_data(&mut self, data: &[u8]) {
        let leaf = Sha256::new().chain_update([0]).chain_update(data);
        let mut node = (1, Hash(leaf.finalize().into()));
        while let Some(&(size, left)) = self.subtrees.last() {
            if size != node.0 {
                break;
            }
            self.subtrees.pop();
            node = (2 * size, parent(&left, &node.1));
        }
        self.subtrees.push(node);
        self.leaves += 1;
    }

    /// The number of leaves.
    pub fn len(&self) -> u64 {
        self.leaves
    }

    /// Whether there is no leaf.
    pub fn is_empty(&self) -> bool {
        self.leaves == 0
    }

    /// The Merkle tree hash; of an empty tree, SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev().map(|(_, hash)| *hash);
        match subtrees.next() {
            None => Hash::of(b""),
            Some(smallest) => subtrees.fold(smallest, |right, left| parent(&left, &right)),
        }
    }
}

/// The root over `leaves`.
pub fn root<'a>(leaves: impl IntoIterator<Item = &'a Hash>) -> Hash {
    let mut tree = MerkleTree::new();
    leaves.into_iter().for_each(|leaf| tree.push(leaf));
    tree.root()
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    let node = Sha256::new()
        .chain_update([1])
        .chain_update(left.0)
        .chain_update(right.0);
    Hash(node.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 6962 section 2.1, word for word.
    fn definition(data: &[Vec<u8>]) -> Hash {
        match data {
            [] => Hash::of(b""),
            [one] => Hash::of(&[&[0u8][..], one].concat()),
            _ => {
                let k = (data.len().next_power_of_two() / 2).min(data.len() - 1);
                let (left, right) = data.split_at(k);
                parent(&definition(left), &definition(right))
            }
        }
    }

    #[test]
    fn the_known_tree_of_eight_leaves() {
        // Inputs and roots of the Certificate Transparency project's own test (merkle_tree_test).
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = MerkleTree::new();
        assert_eq!(tree.root(), Hash::of(b""));
        for (leaf, root) in leaves.iter().zip(roots) {
            tree.push_data(&crate::hex::decode_vec(leaf.as_bytes()).unwrap());
            assert_eq!(tree.root().to_string(), root);
        }
        assert_eq!(tree.len(), 8);
    }

    proptest! {
        #[test]
        fn incremental_equals_the_definition(data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..70)) {
            let mut tree = MerkleTree::new();
            data.iter().for_each(|leaf| tree.push_data(leaf));
            prop_assert_eq!(tree.root(), definition(&data));
        }
    }
}
