//! The operator of HALO: `HaloTenant` and `HaloSubstrate` become namespaces, keys, policies, pods and nodes, and go again.
//!
//! Both kinds walk `dereference -> validate -> plan -> apply -> status`. What decides is pure ([`substrate::plan`], [`nodes::plan`],
//! [`tenant::plan`]); what touches the API server or the cloud is at the edge and passes through [`effect`].

pub mod clock;
pub mod config;
pub mod context;
pub mod effect;
pub mod nodes;
pub mod runtime;
pub mod settings;
pub mod substrate;
pub mod tenant;

#[cfg(test)]
mod tests {
    /// The guide's table names reasons: each must be one that the code gives.
    #[test]
    fn reasons_of_the_guide_exist() {
        let guide = include_str!("../../docs/operator.md");
        let sources = [
            include_str!("../../crds/src/reasons.rs"),
            include_str!("../../cloud/src/error.rs"),
            include_str!("../../cloud/src/secret.rs"),
        ];
        let (_, table) = guide.split_once("| reason | what to do |\n").unwrap();
        let rows = table
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with('|'));
        let mut count = 0;
        for reason in rows.flat_map(|row| row.split('|').nth(1).unwrap().split(',')) {
            let literal = format!("\"{}\"", reason.trim());
            let known = sources.iter().any(|source| source.contains(&literal));
            assert!(known, "{literal} is no reason");
            count += 1;
        }
        assert!(count >= 20, "{count} reasons");
    }
}
