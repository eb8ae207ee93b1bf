//! Step 2: twenty devices of two tenants at once. Each tenant has its own nodes, pods, keys and receipts, and nothing of the other's.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::fleet::{Fleet, Plan};
use crate::report::Step;
use crate::tenants::Tenant;
use crate::world::{World, ledger};

/// How long all answers may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Devices of each tenant.
const EACH: usize = 10;

pub async fn run(world: &World, step: &mut Step) -> Result<()> {
    let devices = world.devices("many", EACH).await?;
    step.held(format!("{} devices enrolled", devices.len()));
    let plan = Plan {
        questions: 2,
        pause: Duration::from_millis(100),
        tokens: 12,
        hold_open: true,
    };
    let mut fleet = Fleet::start(world, "many", &devices, &plan)?;
    let questions = devices.len() * 2;
    fleet
        .until(LIMIT, "every answer", |fleet| {
            fleet.questions.len() >= questions
        })
        .await?;
    fleet.all_answered()?;
    step.held(format!("{questions} questions, each answered and sealed"));
    pods_apart(world).await?;
    step.held("every pod runs on a node of its own tenant, and has no token");
    keys_apart(world).await?;
    step.held("no namespace holds a key of the other tenant");
    fleet.end(Duration::from_secs(60)).await?;

    for tenant in &world.tenants {
        let own: BTreeSet<&str> = fleet
            .questions
            .iter()
            .filter(|question| question.tenant() == tenant.id)
            .map(|question| question.session())
            .collect();
        ensure!(
            own.len() == EACH,
            "{} has {} sessions",
            tenant.id,
            own.len()
        );
        let listed = sessions(world, tenant).await?;
        for session in &own {
            world.passes(session).await?;
            ensure!(listed.contains(*session), "{session} is not listed");
        }
        for other in &fleet.questions {
            ensure!(
                other.tenant() == tenant.id || !listed.contains(other.session()),
                "{} lists a session of {}: {}",
                tenant.id,
                other.tenant(),
                other.session()
            );
        }
    }
    step.held("halo-verify passes for all 20 sessions; each tenant's list holds its own only");
    Ok(())
}

/// Ids of a tenant's sessions in the ledger.
async fn sessions(world: &World, tenant: &Tenant) -> Result<BTreeSet<String>> {
    let ledger = ledger();
    let arguments = [
        "--ledger", &ledger, "--tenant", &tenant.id, "--list", "--jsonl",
    ];
    let listed = world.programs.output("halo-verify", arguments).await?;
    let mut found = BTreeSet::new();
    for line in listed.lines() {
        let line: Value = serde_json::from_str(line)?;
        let session = line["session_id"].as_str().or(line["session"].as_str());
        found.extend(session.map(str::to_owned));
    }
    Ok(found)
}

async fn pods_apart(world: &World) -> Result<()> {
    let nodes: Api<Node> = Api::all(world.client.clone());
    for tenant in &world.tenants {
        let pods = world.pods(&tenant.namespace).await?;
        ensure!(!pods.is_empty(), "{} has no pod", tenant.id);
        for pod in pods {
            let spec = pod.spec.unwrap_or_default();
            ensure!(
                spec.automount_service_account_token == Some(false),
                "a pod of {} may have a token",
                tenant.id
            );
            let Some(name) = spec.node_name else { continue };
            let node = nodes.get(&name).await?;
            let labels = node.metadata.labels.unwrap_or_default();
            let owner = labels.get(halo_crds::TENANT_LABEL);
            ensure!(
                owner == Some(&tenant.id),
                "{name} runs a pod of {} and belongs to {owner:?}",
                tenant.id
            );
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            ensure!(
                taints
                    .iter()
                    .any(|taint| taint.key == halo_crds::POOL_LABEL),
                "{name} lets other pods in"
            );
        }
    }
    Ok(())
}

async fn keys_apart(world: &World) -> Result<()> {
    for tenant in &world.tenants {
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &tenant.namespace);
        let secrets = secrets.list(&ListParams::default()).await?.items;
        ensure!(!secrets.is_empty(), "{} has no keys", tenant.id);
        for secret in secrets {
            for (name, bytes) in secret.data.unwrap_or_default() {
                let text = String::from_utf8_lossy(&bytes.0);
                for other in &world.tenants {
                    ensure!(
                        other.id == tenant.id || !text.contains(&other.id),
                        "{name} in {} names {}",
                        tenant.namespace,
                        other.id
                    );
                }
                ensure!(
                    !text.contains("enroll") && !text.contains(&world.roots[0]),
                    "{name} in {} holds more than pods need",
                    tenant.namespace
                );
            }
        }
    }
    Ok(())
}
