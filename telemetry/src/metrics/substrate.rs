//! Metrics of the substrate.

use super::{Component, Definition, Kind, WRITES};

/// From a millisecond to about two minutes, doubling: what happens within one answer.
const ANSWER: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384, 32.768, 65.536, 131.072,
];

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    acts: &'static str,
) -> Definition {
    Definition {
        name,
        kind: Kind::Counter,
        labels,
        help,
        acts,
    }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    acts: &'static str,
) -> Definition {
    Definition {
        name,
        kind: Kind::Gauge,
        labels,
        help,
        acts,
    }
}

const fn histogram(
    name: &'static str,
    buckets: &'static [f64],
    help: &'static str,
    acts: &'static str,
) -> Definition {
    Definition {
        name,
        kind: Kind::Histogram(buckets),
        labels: &[],
        help,
        acts,
    }
}

/// Seconds that loading the weights took.
pub const LOAD_SECONDS: Definition = gauge(
    "halo_substrate_load_seconds",
    &[],
    "Seconds that loading the weights took; 0 until they are loaded.",
    "Who plans wakes: a long load makes every wake long, so look at the disk and the model's size.",
);
/// Whether requests are taken.
pub const READY: Definition = gauge(
    "halo_substrate_ready",
    &[],
    "1 when the pod takes requests.",
    "Who is on call: a pod that stays 0 says in its log whether the model or the ledger keeps it.",
);
/// From the queue to the first token.
pub const TIME_TO_FIRST_TOKEN_SECONDS: Definition = histogram(
    "halo_substrate_time_to_first_token_seconds",
    ANSWER,
    "From a request's place in the queue to its first token.",
    "Who is on call for time to first token: tells whether the pod or the way to it is slow.",
);
/// Waiting for a turn.
pub const QUEUE_SECONDS: Definition = histogram(
    "halo_substrate_queue_seconds",
    ANSWER,
    "From a request's place in the queue to the start of its computation.",
    "Who plans capacity: a growing wait asks for more pods or fewer sessions a pod.",
);
/// Between tokens.
pub const INTER_TOKEN_SECONDS: Definition = histogram(
    "halo_substrate_inter_token_seconds",
    ANSWER,
    "Between one token and the next.",
    "Who plans capacity: a slower pace at the same load means that cores are shared or the ledger lags.",
);
/// A block on its way to the ledger.
pub const LEDGER_APPEND_SECONDS: Definition = histogram(
    "halo_substrate_ledger_append_seconds",
    WRITES,
    "From handing a block of receipts to the ledger to its acknowledgement.",
    "Who is on call for the ledger: long appends slow the tokens.",
);
/// Tokens held back by the ledger.
pub const LEDGER_WAIT_SECONDS: Definition = histogram(
    "halo_substrate_ledger_wait_seconds",
    ANSWER,
    "How long an answer stood still each time because the ledger had too many of its blocks to acknowledge.",
    "Who is on call for the ledger: anything here is time that a person waited for the ledger.",
);
/// Answers held back by the ledger.
pub const LEDGER_WAITING: Definition = gauge(
    "halo_substrate_ledger_waiting",
    &[],
    "Answers that stand still because the ledger has too many of their blocks to acknowledge.",
    "Who is on call for the ledger: above 0 for long, the ledger is slower than the model.",
);
/// Prompt tokens.
pub const PROMPT_TOKENS: Definition = counter(
    "halo_substrate_prompt_tokens_total",
    &[],
    "Tokens of prompts that were computed.",
    "Who plans capacity and counts usage.",
);
/// Answer tokens.
pub const TOKENS: Definition = counter(
    "halo_substrate_tokens_total",
    &[],
    "Tokens made.",
    "Who plans capacity and counts usage.",
);
/// Requests in line.
pub const QUEUE_DEPTH: Definition = gauge(
    "halo_substrate_queue_depth",
    &[],
    "Requests waiting for their turn.",
    "Who plans capacity: a line that stays asks for more pods.",
);
/// Answers under way.
pub const ACTIVE: Definition = gauge(
    "halo_substrate_active",
    &[],
    "Answers being computed.",
    "Who plans capacity, and who drains a node: above 0 somebody waits for an answer.",
);
/// Links.
pub const LINKS: Definition = gauge(
    "halo_substrate_links",
    &[],
    "Connections from gateways.",
    "Who looks at a drain: it ends when this is 0.",
);
/// Receipts.
pub const RECEIPTS: Definition = counter(
    "halo_substrate_receipts_total",
    &[],
    "Tier 2 receipts that are durable.",
    "Who audits: two a token and one an answer, or receipts are missing.",
);
/// Experts used.
pub const EXPERT_ACTIVATIONS: Definition = counter(
    "halo_substrate_expert_activations_total",
    &[],
    "Experts that steps used, summed over layers.",
    "Who looks at the model: by token it is experts a token times layers.",
);
/// Experts used for the first time.
pub const EXPERT_LOADS: Definition = counter(
    "halo_substrate_expert_loads_total",
    &[],
    "Experts used for the first time since the weights were loaded.",
    "Who looks at the model: what has not been used yet may still lie on the disk.",
);
/// Answers by status.
pub const ANSWERS: Definition = counter(
    "halo_substrate_answers_total",
    &["status"],
    "Requests that ended, by status.",
    "Who is on call for availability: `failed` is broken off or lost.",
);
/// Refusals by reason.
pub const REFUSALS: Definition = counter(
    "halo_substrate_refusals_total",
    &["reason"],
    "Messages, requests and connections that were refused, by reason.",
    "Who is on call: `signature` that rises is somebody at the door, `keys` a keyring that does not arrive.",
);
/// Which kernels run.
pub const KERNEL_INFO: Definition = gauge(
    "halo_substrate_kernel_info",
    &["stored", "path"],
    "1 for each way in which the weights are stored and the kernels that multiply them.",
    "Who buys machines: a slower path than the processor has is a wrong machine or a wrong format.",
);
/// Until when keys are held.
pub const KEYS_END: Definition = gauge(
    "halo_substrate_keys_end_timestamp_seconds",
    &[],
    "When the last month ends whose keys are held, as seconds since 1970; 0 for a pod that holds a root.",
    "Who is on call: a time that comes near means that the operator does not publish the next month.",
);
/// The generation for new sessions.
pub const KEYS_GENERATION: Definition = gauge(
    "halo_substrate_keys_generation",
    &[],
    "The generation of the root that new sessions are keyed from.",
    "Who changes a root: the change has reached every pod when all show the new one.",
);

/// The substrate.
pub const COMPONENT: Component = Component {
    name: "substrate",
    served: "`halo-substrate` on its port",
    metrics: &[
        &LOAD_SECONDS,
        &READY,
        &TIME_TO_FIRST_TOKEN_SECONDS,
        &QUEUE_SECONDS,
        &INTER_TOKEN_SECONDS,
        &LEDGER_APPEND_SECONDS,
        &LEDGER_WAIT_SECONDS,
        &LEDGER_WAITING,
        &PROMPT_TOKENS,
        &TOKENS,
        &QUEUE_DEPTH,
        &ACTIVE,
        &LINKS,
        &RECEIPTS,
        &EXPERT_ACTIVATIONS,
        &EXPERT_LOADS,
        &ANSWERS,
        &REFUSALS,
        &KERNEL_INFO,
        &KEYS_END,
        &KEYS_GENERATION,
    ],
};
