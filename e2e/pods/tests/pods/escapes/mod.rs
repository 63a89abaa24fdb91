//! Attempts to escape: each succeeds from a pod that is not injected, and fails under Strict. What the world outside received decides,
//! never what the attempt was told.

mod attempts;
mod page;
mod stage;

use std::thread;

use anyhow::{Result, anyhow, ensure};
use kybernis_pods::World;

use crate::scenario::{Told, installed};
use attempts::ATTEMPTS;
use stage::{Became, Side, Stage};

pub(crate) fn strict(world: &World) -> Result<Told> {
    installed(world)?;
    let [bare, strict] = thread::scope(|scope| {
        let sides = [Side::Bare, Side::Strict].map(|side| scope.spawn(move || on(world, side)));
        sides.map(|side| side.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    });
    let (bare, strict) = (bare?, strict?);
    let mut wrong = Vec::new();
    for ((attempt, bare), strict) in ATTEMPTS.iter().zip(&bare).zip(&strict) {
        println!("{}\n  not injected: {}\n  Strict:       {}", attempt.what, bare.heard, strict.heard);
        if !bare.escaped {
            wrong.push(format!("{:?} shows nothing: it fails without a sidecar, too: {}", attempt.what, bare.heard));
        }
        if strict.escaped {
            wrong.push(format!("{:?} ESCAPES: {}", attempt.what, strict.heard));
        }
        if !strict.heard.contains(attempt.stopped) {
            wrong.push(format!("{:?} fails in another way than {:?}: {}", attempt.what, attempt.stopped, strict.heard));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    page::check(&ATTEMPTS)?;
    let told = format!("{} of {0} succeed from a pod that is not injected, 0 under Strict", ATTEMPTS.len());
    Ok(Told::new("every attempt of docs/security.md", told))
}

fn on(world: &World, side: Side) -> Result<Vec<Became>> {
    let stage = Stage::set(world, side)?;
    let tried = ATTEMPTS.iter().enumerate().map(|(number, attempt)| {
        stage.attempt(number, attempt).or_else(|error| {
            // One that could not be made says so in its place, and the others are made all the same.
            let heard = format!("{:#}", error.context(format!("{}: {}", side.name(), attempt.what)));
            Ok(Became { escaped: side == Side::Strict, heard })
        })
    });
    let tried = tried.collect::<Result<Vec<_>>>()?;
    stage.end()?;
    Ok(tried)
}
