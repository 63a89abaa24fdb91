use super::*;

fn decide(key: u8, meaning: u8) -> v1::DecideRequest {
    v1::DecideRequest { boot: "boot-1".to_owned(), keys: vec![vec![key; 32]], meaning: vec![meaning; 32], ..Default::default() }
}

fn alone_name() -> Option<EffectId> {
    EffectId::new("alone-1").ok()
}

fn open(folder: &tempfile::TempDir) -> Arc<Claims> {
    Arc::new(Claims::open(folder.path()).unwrap())
}

fn files(folder: &tempfile::TempDir) -> usize {
    fs::read_dir(folder.path()).unwrap().count()
}

#[tokio::test]
async fn a_claim_is_met_by_its_key_and_by_its_meaning_until_it_is_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let claims = open(&folder);
    let alone = alone_name().unwrap();
    let first = claims.claim(decide(1, 1), &alone).await.unwrap();
    assert!(matches!(claims.claim(decide(1, 2), &alone).await, Err(ClaimError::Held)));
    assert!(matches!(claims.claim(decide(2, 1), &alone).await, Err(ClaimError::Held)));
    claims.claim(decide(2, 2), &alone).await.unwrap();
    assert!(claims.meets(&[KeyDigest::from_bytes([1; 32])], Meaning::from_bytes([9; 32])));
    assert!(claims.meets(&[], Meaning::from_bytes([1; 32])));
    assert!(!claims.meets(&[KeyDigest::from_bytes([9; 32])], Meaning::from_bytes([9; 32])));
    claims.withdraw(first);
    claims.claim(decide(1, 1), &alone).await.unwrap();
    assert_eq!(files(&folder), 2);
}

#[tokio::test]
async fn a_later_life_finds_a_claim_without_an_outcome_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).claim(decide(1, 1), &alone_name().unwrap()).await.unwrap();
    let again = open(&folder);
    assert!(matches!(again.claim(decide(1, 2), &alone_name().unwrap()).await, Err(ClaimError::Held)), "a claim was forgotten");
    let held = again.held();
    let claim = held.claims.values().next().unwrap();
    assert!(claim.settled);
    assert!(matches!(lost(&claim.decide).outcome, Some(v1::settle_request::Outcome::InDoubt(_))));
}

#[tokio::test]
async fn what_the_record_refuses_stays_and_its_number_is_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let claims = open(&folder);
    let number = claims.claim(decide(1, 1), &alone_name().unwrap()).await.unwrap();
    claims.settled(number, &lost(&decide(1, 1))).await.unwrap();
    claims.keep_refused(number);
    assert_eq!(files(&folder), 2);
    let again = open(&folder);
    assert!(again.is_empty());
    assert_eq!(again.claim(decide(1, 1), &alone_name().unwrap()).await.unwrap(), number + 1);
}

#[tokio::test]
async fn too_many_bytes_of_claims_refuse_another() {
    let folder = tempfile::tempdir().unwrap();
    let claims = open(&folder);
    let alone = alone_name().unwrap();
    for n in 0..3 {
        let number = claims.claim(decide(n, n), &alone).await.unwrap();
        claims.settled(number, &completed(8 * 1024 * 1024)).await.unwrap();
    }
    assert!(matches!(claims.claim(decide(9, 9), &alone).await, Err(ClaimError::Full)));
}

fn completed(body: usize) -> v1::SettleRequest {
    let answer = v1::Answer { status: 201, stored: true, len: body as u64, ..Default::default() };
    let completed = v1::Completed { answer: Some(answer), body: vec![7; body] };
    v1::SettleRequest { outcome: Some(v1::settle_request::Outcome::Completed(completed)), ..Default::default() }
}

fn on_disk(folder: &tempfile::TempDir) -> u64 {
    fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn outcomes_that_come_together_are_all_kept_and_their_answers_as_far_as_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let claims = open(&folder);
    let alone = alone_name().unwrap();
    let mut numbers = Vec::new();
    for n in 0..6 {
        numbers.push(claims.claim(decide(n, n), &alone).await.unwrap());
    }
    let outcome = completed(8 * 1024 * 1024);
    futures::future::try_join_all(numbers.iter().map(|number| claims.settled(*number, &outcome))).await.unwrap();
    assert!(on_disk(&folder) <= BYTES_MAX, "{} bytes", on_disk(&folder));
    assert_eq!(claims.held().bytes(), on_disk(&folder));
    assert!(claims.held().claims.values().all(|claim| claim.settled));
    let whole = |number: &&u64| read::<v1::SettleRequest>(&folder.path().join(file_name(**number, OUTCOME))).unwrap() == outcome;
    assert_eq!(numbers.iter().filter(whole).count(), 3);
    for number in numbers {
        claims.keep_refused(number);
    }
    assert_eq!(files(&folder), 12);
    assert!(on_disk(&folder) <= REFUSED_MAX, "what was refused fills the disk: {} bytes", on_disk(&folder));
    assert_eq!(open(&folder).held().refused, on_disk(&folder));
}
