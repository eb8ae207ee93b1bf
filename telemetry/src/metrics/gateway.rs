//! Metrics of the gateway.

use super::{Component, Definition, Kind, LONG, SHORT, WRITES};

/// From a microsecond to a tenth of a second: what checking one frame or one bundle takes.
const CHECKS: &[f64] = &[
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_1,
    0.001,
    0.01,
    0.1,
];
/// From five milliseconds to twenty minutes: how long a request waits for a pod.
const WAITS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
];

/// Frames of devices that were accepted.
pub const FRAMES: Definition = Definition {
    name: "halo_gateway_frames_total",
    kind: Kind::Counter,
    labels: &["type"],
    help: "Frames of devices that were accepted, by type.",
    acts: "Whoever plans capacity: frames a second that devices send.",
};
/// Messages of devices that were refused.
pub const REFUSED_MESSAGES: Definition = Definition {
    name: "halo_gateway_refused_messages_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Messages of devices that were refused, by reason: the verdict on a frame that was not accepted.",
    acts: "On call: a rise of hmac or sequence means a broken or hostile device; see the log for its address.",
};
/// What checking a frame takes.
pub const VERIFY_SECONDS: Definition = Definition {
    name: "halo_gateway_verify_seconds",
    kind: Kind::Histogram(CHECKS),
    labels: &["what"],
    help: "How long it took to check what a device sent: one frame, or one bundle of receipts.",
    acts: "Whoever plans capacity: more than 10 us for a frame means that the node has no SHA extensions.",
};
/// Bundles that were refused.
pub const REFUSED_BUNDLES: Definition = Definition {
    name: "halo_gateway_refused_bundles_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Bundles that were refused, by reason.",
    acts: "On call: hmac, chain, differs or seal mean that a device's chain is broken; behind, that receipts which were acknowledged are lost, as with a spill.",
};
/// What must never happen.
pub const INTEGRITY_FAILURES: Definition = Definition {
    name: "halo_gateway_integrity_failures_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Signed things that did not verify: bundle (a device's receipts), pod (a pod's frames or end), ledger (stored receipts).",
    acts: "On call, at once: run halo-verify on the session that the log names.",
};
/// Breaks that devices reported.
pub const SESSION_RESETS: Definition = Definition {
    name: "halo_gateway_session_resets_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Receipts with the decision verification_failed that were recorded: a device found its sensor's chain broken and re-linked it.",
    acts: "On call: a sensor link was tampered with or is faulty; the session shows where.",
};
/// Requests that ended.
pub const REQUESTS: Definition = Definition {
    name: "halo_gateway_requests_total",
    kind: Kind::Counter,
    labels: &["op", "status", "code"],
    help: "Requests that ended, by operation, status and code.",
    acts: "On call: the availability alert is made of it.",
};
/// Refusals.
pub const REFUSALS: Definition = Definition {
    name: "halo_gateway_refusals_total",
    kind: Kind::Counter,
    labels: &["tenant", "reason"],
    help: "Requests that were refused, by tenant and reason.",
    acts: "Whoever looks after a tenant: its limits are too low, or its substrate does not wake.",
};
/// Openings that were refused.
pub const REFUSED_OPENINGS: Definition = Definition {
    name: "halo_gateway_refused_openings_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Requests for a session or an epoch that were refused, by reason.",
    acts: "On call: a rise of clock, generation or signature means devices with a wrong clock or an old key.",
};
/// Upgrades that were refused.
pub const REFUSED_UPGRADES: Definition = Definition {
    name: "halo_gateway_refused_upgrades_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "WebSocket upgrades that were refused, by reason.",
    acts: "On call: a rise without one of openings means something between devices and gateway.",
};
/// Sessions and epochs.
pub const OPENED: Definition = Definition {
    name: "halo_gateway_opened_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Sessions and epochs that were opened.",
    acts: "Whoever plans capacity: many epochs a session mean bad connections.",
};
/// Sockets.
pub const SOCKETS: Definition = Definition {
    name: "halo_gateway_sockets",
    kind: Kind::Gauge,
    labels: &[],
    help: "Sockets that are accepted now, with or without a session.",
    acts: "Whoever plans capacity: near limits.sockets, add gateways.",
};
/// Device connections.
pub const CONNECTIONS: Definition = Definition {
    name: "halo_gateway_connections",
    kind: Kind::Gauge,
    labels: &[],
    help: "Device connections that are open now.",
    acts: "Whoever plans capacity.",
};
/// Device connections that ended.
pub const CLOSED_CONNECTIONS: Definition = Definition {
    name: "halo_gateway_closed_connections_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Device connections that ended, by reason.",
    acts: "On call: a rise of broken or silent means a network between devices and gateway.",
};
/// Sockets that were turned away.
pub const TURNED_AWAY: Definition = Definition {
    name: "halo_gateway_turned_away_sockets_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Sockets that were closed before a request, by reason.",
    acts: "On call: full means too few gateways, barred means an attack.",
};
/// Requests that wait for a pod.
pub const HELD: Definition = Definition {
    name: "halo_gateway_held_requests",
    kind: Kind::Gauge,
    labels: &[],
    help: "Requests that wait for a pod now.",
    acts: "On call: requests that wait while pods are ready mean pods that refuse.",
};
/// Their bytes.
pub const HELD_BYTES: Definition = Definition {
    name: "halo_gateway_held_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Bytes of the requests that wait for a pod now.",
    acts: "Whoever plans capacity: memory that held requests take.",
};
/// The oldest of them.
pub const OLDEST_HOLD: Definition = Definition {
    name: "halo_gateway_oldest_hold_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "For how long the oldest request that waits now has waited.",
    acts: "On call: near the wake deadline, the next thing that devices see is a refusal.",
};
/// How holds ended.
pub const HOLDS: Definition = Definition {
    name: "halo_gateway_holds_total",
    kind: Kind::Counter,
    labels: &["tenant", "outcome"],
    help: "Requests that stopped waiting for a pod, by tenant and outcome: dispatched, full, deadline, cancelled, draining, unavailable.",
    acts: "On call: the wake alert counts deadline; full means that heldRequests is too low.",
};
/// How long requests waited.
pub const HOLD_SECONDS: Definition = Definition {
    name: "halo_gateway_hold_seconds",
    kind: Kind::Histogram(WAITS),
    labels: &[],
    help: "From a request until the link to its pod stands.",
    acts: "Whoever looks after a tenant: how long people wait for a wake.",
};
/// From Ready to a link.
pub const READY_TO_LINK: Definition = Definition {
    name: "halo_gateway_ready_to_link_seconds",
    kind: Kind::Histogram(SHORT),
    labels: &[],
    help: "From the moment that the gateway saw a pod ready until the first held request had its link.",
    acts: "Whoever works on the gateway: its own share of a wake.",
};
/// Stages of wakes.
pub const WAKE_STAGES: Definition = Definition {
    name: "halo_gateway_wake_stage_seconds",
    kind: Kind::Histogram(LONG),
    labels: &["stage"],
    help: "How long wakes that requests waited for spent in each stage, as this gateway saw it: asleep, starting, loading.",
    acts: "Whoever tunes wakes: which stage to shorten.",
};
/// Notices.
pub const NOTICES: Definition = Definition {
    name: "halo_gateway_notices_total",
    kind: Kind::Counter,
    labels: &["state"],
    help: "Progress notices of this gateway for requests that waited, by state.",
    acts: "Whoever works on devices: what people are told while they wait.",
};
/// Answers.
pub const ANSWERS: Definition = Definition {
    name: "halo_gateway_answers",
    kind: Kind::Gauge,
    labels: &[],
    help: "Answers under way now, those whose device is away included.",
    acts: "Whoever plans capacity.",
};
/// Answers that moved.
pub const MOVED: Definition = Definition {
    name: "halo_gateway_moved_requests_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Requests that were given to another link before their first token: lost (the pod went away), refused (it had no room).",
    acts: "On call: a rise of lost means pods that die.",
};
/// Tokens.
pub const TOKENS: Definition = Definition {
    name: "halo_gateway_tokens_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Tokens that were taken from pods.",
    acts: "Whoever plans capacity and cost.",
};
/// Tokens that devices got.
pub const RELAYED: Definition = Definition {
    name: "halo_gateway_relayed_tokens_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Tokens that were sent to devices, those of resumed answers again.",
    acts: "On call: far fewer than were taken means devices that are away.",
};
/// Backpressure.
pub const BACKPRESSURE: Definition = Definition {
    name: "halo_gateway_backpressure_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Times that a sender was slowed: pod (its link was not read because the device did not), device (it was sent BACKPRESSURE).",
    acts: "Whoever looks after a tenant: slow devices, or a limit that is too low.",
};
/// Receipts.
pub const RECEIPTS: Definition = Definition {
    name: "halo_gateway_receipts_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Receipts of tiers 0 and 1 that were written.",
    acts: "Whoever plans capacity and cost of the ledger.",
};
/// Answers that the gateway closed.
pub const CLOSED_FOR_POD: Definition = Definition {
    name: "halo_gateway_closed_for_pod_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Answers that were closed in place of a lost pod.",
    acts: "On call: pods die in the middle of answers.",
};
/// Links to pods.
pub const POD_LINKS: Definition = Definition {
    name: "halo_gateway_pod_links_total",
    kind: Kind::Counter,
    labels: &["outcome"],
    help: "Attempts to reach a pod and what became of them.",
    acts: "On call: unreachable or rejected while pods are ready mean a network policy or wrong keys.",
};
/// From a request to its first token.
pub const FIRST_TOKEN_SECONDS: Definition = Definition {
    name: "halo_gateway_first_token_seconds",
    kind: Kind::Histogram(WAITS),
    labels: &[],
    help: "From a request until its first token, the wait for a wake included.",
    acts: "On call: the alert on the time to the first token is made of it.",
};
/// What the ledger takes.
pub const APPEND_SECONDS: Definition = Definition {
    name: "halo_gateway_append_seconds",
    kind: Kind::Histogram(WRITES),
    labels: &[],
    help: "How long the ledger took to append a bundle.",
    acts: "On call: it is part of every request.",
};
/// Whether it shuts down.
pub const DRAINING: Definition = Definition {
    name: "halo_gateway_draining",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 while the gateway shuts down.",
    acts: "Whoever upgrades: how far a rolling update is.",
};
/// Reports of demand.
pub const DEMAND_WRITES: Definition = Definition {
    name: "halo_gateway_demand_writes_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Writes of demand to the status of substrates, by result: written, removed, conflict, failed.",
    acts: "On call: while failed rises, no substrate wakes.",
};
/// Failures of watches.
pub const WATCH_FAILURES: Definition = Definition {
    name: "halo_gateway_watch_failures_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Failures of the watches that tenants, keys and pods come from, by kind of object.",
    acts: "On call: the gateway serves what it knows, and learns nothing new.",
};
/// Whether all is known.
pub const DIRECTORY_SYNCED: Definition = Definition {
    name: "halo_gateway_directory_synced",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 when tenants, keys and pods were all listed once; always 1 with a configuration file that names tenants.",
    acts: "On call: a gateway that stays at 0 cannot reach the API server or may not list.",
};
/// How old it is.
pub const DIRECTORY_AGE: Definition = Definition {
    name: "halo_gateway_directory_age_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "Seconds since the API server was last heard of by the watch that heard least; 0 without a cluster.",
    acts: "On call: keys and revocations may be stale when it exceeds ten minutes.",
};

/// The gateway.
pub const COMPONENT: Component = Component {
    name: "gateway",
    served: "`halo-gateway` on its admin port",
    metrics: &[
        &FRAMES,
        &REFUSED_MESSAGES,
        &VERIFY_SECONDS,
        &REFUSED_BUNDLES,
        &INTEGRITY_FAILURES,
        &SESSION_RESETS,
        &REQUESTS,
        &REFUSALS,
        &REFUSED_OPENINGS,
        &REFUSED_UPGRADES,
        &OPENED,
        &SOCKETS,
        &CONNECTIONS,
        &CLOSED_CONNECTIONS,
        &TURNED_AWAY,
        &HELD,
        &HELD_BYTES,
        &OLDEST_HOLD,
        &HOLDS,
        &HOLD_SECONDS,
        &READY_TO_LINK,
        &WAKE_STAGES,
        &NOTICES,
        &ANSWERS,
        &MOVED,
        &TOKENS,
        &RELAYED,
        &BACKPRESSURE,
        &RECEIPTS,
        &CLOSED_FOR_POD,
        &POD_LINKS,
        &FIRST_TOKEN_SECONDS,
        &APPEND_SECONDS,
        &DRAINING,
        &DEMAND_WRITES,
        &WATCH_FAILURES,
        &DIRECTORY_SYNCED,
        &DIRECTORY_AGE,
    ],
};
