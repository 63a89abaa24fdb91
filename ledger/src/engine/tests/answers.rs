//! Stored answers go when their records do, whatever came between.

use super::*;

async fn kept(journal: &Counted) -> Vec<String> {
    journal.blob_keys("", 100).await.unwrap()
}

async fn answered(engine: &Engine, key: u8) -> Grant {
    let grant = granted(engine, call(key, &format!("d-{key}"))).await;
    engine.settle(agent(), settle(&grant, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
    grant
}

#[tokio::test]
async fn an_answer_that_could_not_be_dropped_goes_when_its_record_is_forgotten() {
    // What a rig writes now, as if it were long ago, and the answer dropped since: by the record, and not by the store.
    let recent = rig().await;
    let effect = answered(&recent.engine, 1).await.effect;
    let segments = recent.journal.read(0, 100).await.unwrap();
    let mut events: Vec<Event> = (1..).zip(&segments).flat_map(|(number, bytes)| index::decode(number, bytes).unwrap()).collect();
    let dropped = kybernis_core::machine::Fact::AnswerDropped { effect: effect.clone() };
    events.push(Event { ts: Timestamp::default(), fact: dropped });
    events.iter_mut().for_each(|event| event.ts = Timestamp::from_epoch_ms(1));
    let journal = Arc::<Counted>::default();
    let (epoch, expected) = journal.acquire().await.unwrap();
    let blobs = vec![Blob { key: blob_key(&effect, Fence::FIRST), chunk: 0, bytes: b"sealed".to_vec() }];
    journal.append(Append { epoch, expected, events: index::encode(&events), blobs }).await.unwrap();

    // The sweep of the next start fails too.
    journal.failing_drops.store(1, Ordering::Relaxed);
    let rig = rig_on(journal, tempfile::tempdir().unwrap()).await;
    assert_eq!(rig.journal.failing_drops.load(Ordering::Relaxed), 0);
    loop {
        let id = effect.clone();
        if rig.engine.read(move |state| state.effect(&id).is_none()).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Errands of a batch are done before the next is begun.
    rig.engine.read(|_| ()).await.unwrap();
    assert_eq!(kept(&rig.journal).await, [] as [String; 0]);
}

#[tokio::test]
async fn answers_that_no_record_holds_are_swept_when_the_ledger_opens() {
    let Rig { engine, journal, _folder: folder, .. } = rig().await;
    let held = answered(&engine, 1).await;
    let flying = granted(&engine, call(2, "d-2")).await;
    drop(engine);
    let stray = |key: &str| Blob { key: key.to_owned(), chunk: 0, bytes: b"sealed".to_vec() };
    let strays = ["eff-gone/1", "nonsense", &blob_key(&flying.effect, Fence::FIRST), &format!("{}/2", held.effect)];
    let (epoch, expected) = journal.acquire().await.unwrap();
    let events = index::encode(&[]);
    journal.append(Append { epoch, expected, events, blobs: strays.map(stray).to_vec() }).await.unwrap();
    assert_eq!(kept(&journal).await.len(), 5);

    let rig = rig_on(journal, folder).await;
    assert_eq!(kept(&rig.journal).await, [blob_key(&held.effect, held.fence)]);
    let body = rig.engine.body(agent(), held.effect, held.fence).await.unwrap().unwrap().unwrap();
    assert_eq!(body.concat(), BODY);
}
