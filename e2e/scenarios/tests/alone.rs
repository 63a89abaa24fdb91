//! The harm that the matrix is about, with the clients on their own: without it the governed columns would show nothing.

use kybernis_scenarios::kit::{Kit, cache};
use kybernis_scenarios::matrix::{self, Column};
use kybernis_scenarios::run::Stage;

#[test]
fn real_clients_on_their_own_buy_twice_when_an_executed_order_goes_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(Kit::install(&cache()).unwrap(), None, folder.path()).unwrap();
    let cells = matrix::cells(&[Column::Bare], |cell| matches!(cell.case.name, "drop, executed" | "reset, executed"));
    let done = matrix::run(&stage, &cells, 2, |_, _| {}).unwrap();
    assert_eq!(done.len(), 14);
    for one in done {
        assert_eq!(one.mismatches(), Vec::<String>::new(), "{}", one.cell);
        assert_eq!(one.observed.unwrap().executions, 2, "{}", one.cell);
    }
}
