//! The story in pods: an unchanged agent retries, and the broker outside has executed one order.

use std::time::SystemTime;

use anyhow::Result;
use kybernis_pods::{World, said, soon};

/// `requests` with urllib3's `Retry` on POST, as people write it.
const ORDER: &str = "
import sys, requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry
retry = Retry(total=4, backoff_factor=0.1, status_forcelist=[500, 502, 503, 504], allowed_methods=None)
session = requests.Session()
session.mount('http://', HTTPAdapter(max_retries=retry))
order = {'client_order_id': sys.argv[2], 'symbol': 'AAPL', 'side': 'buy', 'qty': 5, 'price': 190.5}
answer = session.post(sys.argv[1], json=order, headers={'Authorization': 'Bearer e2e'}, timeout=20)
print(answer.status_code, answer.text)
";
/// The broker takes the order, and breaks the connection instead of answering.
const TAKEN_AND_BROKEN: &str = r#"[{"then": "reset", "execute": true}]"#;

/// An order that nobody has placed before: ledgers forget nothing, and the cluster may be an old one.
fn order(name: &str) -> String {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{name}-{}", since.as_nanos())
}

#[test]
#[ignore = "starts a cluster"]
fn an_order_that_a_broken_connection_makes_an_agent_repeat_is_executed_once() -> Result<()> {
    let world = World::set()?;
    world.apply("trader.yaml")?;
    let bare = world.agent("trading", "bare")?;
    world.broker("POST", "/reset", "")?;
    world.broker("POST", "/faults", TAKEN_AND_BROKEN)?;
    let (of_bare, of_trader) = (order("bare"), order("trader"));
    let twice = bare.run(["python3", "-c", ORDER, &world.orders(), &of_bare])?;
    assert!(twice.status.success(), "{twice:?}");
    assert_eq!(world.executed(&of_bare)?, 2, "without Kybernis the agent's retry buys twice");

    let trader = world.agent("trading", "trader")?;
    world.broker("POST", "/faults", TAKEN_AND_BROKEN)?;
    let once = trader.run(["python3", "-c", ORDER, &world.orders(), &of_trader])?;
    let said_of_it = String::from_utf8_lossy(&once.stdout).into_owned();
    assert!(said_of_it.starts_with("423 ") && said_of_it.contains("effect_in_doubt"), "{once:?}");
    assert_eq!(world.executed(&of_trader)?, 1);
    Ok(())
}

#[test]
#[ignore = "starts a cluster"]
fn what_people_apply_comes_into_force_and_says_so() -> Result<()> {
    let world = World::set()?;
    world.apply("trader.yaml")?;
    let trader = world.agent("trading", "trader")?;
    world.apply("deny.yaml")?;
    world.wait("trading", "policy/no-orders", "condition=Ready")?;
    world.broker("POST", "/reset", "")?;
    let (denied, allowed) = (order("denied"), order("allowed"));
    let refused = trader.run(["python3", "-c", ORDER, &world.orders(), &denied])?;
    let said_of_it = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(said_of_it.starts_with("403 ") && said_of_it.contains("policy_denied"), "{refused:?}");
    assert_eq!(world.executed(&denied)?, 0);
    said(&mut world.kubectl(["delete", "--namespace=trading", "policy/no-orders"]))?;
    soon("the policy is gone from the sidecar too", || {
        let placed = trader.run(["python3", "-c", ORDER, &world.orders(), &allowed])?;
        Ok(placed.stdout.starts_with(b"20").then_some(()))
    })?;
    assert_eq!(world.executed(&allowed)?, 1);
    Ok(())
}
