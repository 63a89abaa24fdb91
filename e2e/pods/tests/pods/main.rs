//! The scenarios in pods, one after the other in one cluster: what they do to it would disturb their neighbours. At the end stands a
//! table of what each did and what the broker executed.

mod admission;
mod control_plane;
mod drain;
mod escapes;
mod gates;
mod ignoring;
mod input;
mod jobs;
mod levels;
mod matrix;
mod network;
mod node;
mod release;
mod scenario;
mod sidecar;
mod start;
mod story;

use scenario::{Scenario, run};

/// In this order: the first installs Kybernis, and the last removes it.
const SCENARIOS: [Scenario; 29] = [
    Scenario("an upgrade leaves running agents alone", release::upgrade),
    Scenario("an agent's retry buys once", story::repeated),
    Scenario("a policy comes into force and goes", story::policy),
    Scenario("an order waits for two people", gates::two_people),
    Scenario("an order is denied", gates::denied),
    Scenario("an approval runs out", gates::expired),
    Scenario("a word is kept as it was said, and counts once", gates::kept),
    Scenario("nobody signs words", gates::webhook_gone),
    Scenario("bad input is refused with its field", input::refused),
    Scenario("nobody keeps the cluster's rules off", levels::binding),
    Scenario("clients that ignore proxies are caught or go nowhere", ignoring::redirected),
    Scenario("whatever tries to escape from Strict stays", escapes::strict),
    Scenario("the sidecar is out of memory in mid-call", sidecar::killed),
    Scenario("the ledger's pod is deleted under load", control_plane::ledger_deleted),
    Scenario("operator and webhook are down", control_plane::operator_and_webhook_down),
    Scenario("the kubelet is restarted", node::kubelet_restarted),
    Scenario("a Job completes although a sidecar runs", jobs::completes),
    Scenario("a Job's pod is killed and tried again", jobs::retried),
    Scenario("a rollout forgets nothing", jobs::rollout),
    Scenario("an app starts before the network", start::before_the_network),
    Scenario("a stream and a slow answer end whole in a deleted pod", drain::finishes),
    Scenario("an app dies with its answer under way", drain::dies),
    Scenario("the chart's network policies close what they say", network::closed),
    Scenario("a release passes its own tests", release::tested),
    Scenario("each eleventh cell of the fault matrix", matrix::sample),
    Scenario("golden pods meet a real API server and a hostile webhook", admission::golden),
    Scenario("each level of Pod Security is kept or named", admission::pod_security),
    Scenario("certificates rotate under a load of pod creations", admission::rotate),
    Scenario("uninstalling leaves nothing that blocks pods", release::uninstall),
];

/// For `cargo xtask cluster matrix`: it takes as long as all the others together.
const MATRIX: [Scenario; 1] = [Scenario("the fault matrix in pods", matrix::in_pods)];

fn main() {
    let matrix = std::env::var_os(matrix::ONLY).is_some();
    run(if matrix { &MATRIX } else { &SCENARIOS });
}
