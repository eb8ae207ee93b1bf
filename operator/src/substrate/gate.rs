//! What a substrate's tenant allows it.

use halo_crds::condition::{find, is_true};
use halo_crds::reasons::{self, kinds};
use halo_crds::{HaloSubstrate, HaloTenant};

use super::workload::TenantFacts;

/// What a substrate's tenant allows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gate {
    /// What pods need to know of the tenant; without it children cannot be built.
    pub tenant: Option<TenantFacts>,
    /// Why it may not wake, reason and message; `None` if it may. What runs goes on.
    pub closed: Option<(&'static str, String)>,
    /// Whether the tenant is paused.
    pub paused: bool,
}

impl Gate {
    fn shut(reason: &'static str, message: String) -> Self {
        Self {
            closed: Some((reason, message)),
            ..Self::default()
        }
    }
}

/// Looks at the tenant that `substrate` names. `region` is the operator's own, where a ledger names none.
pub fn look(substrate: &HaloSubstrate, tenant: Option<&HaloTenant>, region: &str) -> Gate {
    let name = &substrate.spec.tenant;
    let Some(tenant) = tenant else {
        return Gate::shut(
            reasons::TENANT_MISSING,
            format!("there is no HaloTenant {name}: create it, or delete this HaloSubstrate"),
        );
    };
    let namespace = tenant.namespace_name();
    if substrate.metadata.namespace.as_deref() != Some(namespace.as_str()) {
        return Gate::shut(
            reasons::WRONG_NAMESPACE,
            format!(
                "HaloTenant {name} has the namespace {namespace}: create the HaloSubstrate there"
            ),
        );
    }
    let ledger = &tenant.spec.ledger;
    Gate {
        tenant: Some(TenantFacts {
            id: tenant.tenant_id().to_owned(),
            table: ledger.table.clone(),
            region: ledger.region.clone().unwrap_or_else(|| region.to_owned()),
        }),
        closed: not_ready(name, tenant),
        paused: tenant.spec.paused,
    }
}

fn not_ready(name: &str, tenant: &HaloTenant) -> Option<(&'static str, String)> {
    if tenant.metadata.deletion_timestamp.is_some() {
        let message = format!("HaloTenant {name} is being deleted");
        return Some((reasons::TENANT_NOT_READY, message));
    }
    let status = tenant.status.as_ref();
    let conditions = status
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    for kind in [kinds::KEYS_READY, kinds::READY] {
        if !is_true(conditions, kind) {
            let why = match find(conditions, kind) {
                Some(condition) => condition.reason.as_str(),
                None => reasons::PENDING,
            };
            let message = format!("HaloTenant {name} is not ready: {kind} says {why}");
            return Some((reasons::TENANT_NOT_READY, message));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::substrate::testing;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn closed(tenant: Option<&HaloTenant>) -> (&'static str, String) {
        look(&testing::ec2(), tenant, "us-east-2").closed.unwrap()
    }

    #[test]
    fn a_tenant_that_is_ready_opens_it() {
        let gate = look(&testing::ec2(), Some(&testing::tenant()), "us-east-2");
        assert_eq!((gate.closed, gate.paused), (None, false));
        let facts = gate.tenant.unwrap();
        assert_eq!(
            (facts.id.as_str(), facts.region.as_str()),
            ("acme", "us-east-2")
        );
    }

    #[test]
    fn each_reason_has_a_name() {
        assert_eq!(closed(None).0, reasons::TENANT_MISSING);

        let mut elsewhere = testing::tenant();
        elsewhere.spec.namespace = Some("other".to_owned());
        let (reason, message) = closed(Some(&elsewhere));
        assert_eq!(reason, reasons::WRONG_NAMESPACE);
        assert!(message.contains("namespace other"), "{message}");

        let mut leaving = testing::tenant();
        leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(closed(Some(&leaving)).1.ends_with("is being deleted"));

        let mut keyless = testing::tenant();
        let condition = &mut keyless.status.as_mut().unwrap().conditions[1];
        condition.status = "False".to_owned();
        condition.reason = reasons::ROOT_TOO_SHORT.to_owned();
        let (reason, message) = closed(Some(&keyless));
        assert_eq!(reason, reasons::TENANT_NOT_READY);
        assert!(
            message.ends_with("KeysReady says RootTooShort"),
            "{message}"
        );

        let mut fresh = testing::tenant();
        fresh.status = None;
        assert!(closed(Some(&fresh)).1.ends_with("KeysReady says Pending"));
    }

    #[test]
    fn a_paused_tenant_pauses() {
        let mut tenant = testing::tenant();
        tenant.spec.paused = true;
        assert!(look(&testing::ec2(), Some(&tenant), "us-east-2").paused);
    }
}
