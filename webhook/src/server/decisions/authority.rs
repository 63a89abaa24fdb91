//! Whom decisions ask: the API server, for the gate, for the person's rights, and for the keys that signatures are believed by. Who
//! answers stands on the other side of a channel: the API server's driver, or a test.

use std::time::Duration;

use kybernis_core::word::PublicKeys;
use tokio::sync::{mpsc, oneshot};

use super::judge::{Gate, May};
use super::user::User;
use crate::server::review::{Reason, Refused};

/// Questions that wait; there are never more reviews at a time than this.
const WAITING: usize = 64;
/// How long one waits. A review asks two, and API servers wait ten seconds for all of it.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where an answer goes, or why there is none.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, String>>;

/// One question.
#[derive(Debug)]
pub(crate) enum Question {
    /// The gate of this name.
    Gate { namespace: String, name: String, answer: Answer<Option<Gate>> },
    /// May this user decide gates of this class there?
    May { user: User, namespace: String, class: String, answer: Answer<May> },
    /// The keys that are published.
    Keys { answer: Answer<PublicKeys> },
}

/// Whoever answers.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    questions: mpsc::Sender<Question>,
}

/// Whom to ask, and the questions to come.
pub(crate) fn authority() -> (Authority, mpsc::Receiver<Question>) {
    let (questions, asked) = mpsc::channel(WAITING);
    (Authority { questions }, asked)
}

impl Authority {
    pub(crate) async fn gate(&self, namespace: &str, name: &str) -> Result<Option<Gate>, Refused> {
        let what = format!("the gate {name:?} could not be looked up");
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.ask(&what, |answer| Question::Gate { namespace, name, answer }).await
    }

    pub(crate) async fn may(&self, user: &User, namespace: &str, class: &str) -> Result<May, Refused> {
        let what = format!("whether user {:.300?} may approve gateclasses {class:?} could not be asked", user.username);
        let (user, namespace, class) = (user.clone(), namespace.to_owned(), class.to_owned());
        self.ask(&what, |answer| Question::May { user, namespace, class, answer }).await
    }

    pub(crate) async fn keys(&self) -> Result<PublicKeys, Refused> {
        self.ask("the keys of decisions could not be looked up", |answer| Question::Keys { answer }).await
    }

    async fn ask<T>(&self, what: &str, question: impl FnOnce(Answer<T>) -> Question) -> Result<T, Refused> {
        let asked = async {
            let (answer, answered) = oneshot::channel();
            let stopping = "the webhook is stopping";
            self.questions.send(question(answer)).await.map_err(|_| stopping.to_owned())?;
            answered.await.unwrap_or_else(|_| Err(stopping.to_owned()))
        };
        let late = |_| Err("the API server does not answer in time".to_owned());
        let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late);
        answer.map_err(|why| Refused::new(Reason::Unavailable, format!("{what}: {why}. Nothing is decided without it; try again")))
    }
}
