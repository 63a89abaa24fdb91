//! The reviews of GateDecisions: whose word it is and whether it counts, before it is signed; and whether it is still signed so, after
//! everybody else has had a turn. What is asked of the API server goes through [`authority`], what is decided stands in [`judge`].

pub(crate) mod authority;
pub(crate) mod judge;
pub(crate) mod keys;
pub(crate) mod said;
pub(crate) mod stamp;
pub(crate) mod user;

use kybernis_core::ids::PersonId;
use kybernis_core::word::{PublicKeys, Signature, SignatureError};

use self::authority::Authority;
use self::judge::Case;
use self::keys::Signing;
use self::said::Said;
use self::stamp::{Stamp, stamped, unbelieved};
use self::user::User;
use super::certificates::moment::Moment;
use super::pods::named;
use super::review::{Allowed, GROUP, Reason, Refused, Request};
use crate::patch::patch;

/// The kind.
const DECISION: &str = "GateDecision";
const RESOURCE: &str = "gatedecisions";

/// What it takes to judge, sign and check.
#[derive(Clone, Debug)]
pub(crate) struct Decisions {
    pub(crate) authority: Authority,
    pub(crate) signing: Signing,
    pub(crate) clock: fn() -> Moment,
}

/// A review of a new decision, by a person.
struct Asked<'r> {
    request: &'r Request,
    namespace: &'r str,
    /// Of the decision; the API server may make it only after us.
    name: &'r str,
    user: User,
    person: PersonId,
    said: Said,
}

impl Decisions {
    /// Judges and signs.
    pub(crate) async fn stamp(&self, request: &Request) -> Result<Allowed, Refused> {
        let Asked { namespace, name, user, person, said, .. } = &Asked::read(request)?;
        let case = Case { namespace, name, person, said };
        let Some(gate) = self.authority.gate(namespace, said.gate.as_str()).await? else { return Err(case.no_gate()) };
        let may = self.authority.may(user, namespace, &gate.class).await?;
        let word = case.judge(&gate, &may, (self.clock)())?;
        let held = if request.is_dry_run() { None } else { Some(self.signing.held()?) };
        let stamped = stamped(&request.object, &word, held.as_ref().map(|held| &held.signer));
        Ok(Allowed { patch: Some(patch(&request.object, &stamped)), warnings: Vec::new() })
    }

    /// Checks what the others have left of it.
    pub(crate) async fn check(&self, request: &Request) -> Result<Allowed, Refused> {
        let Asked { request, namespace, name, person, said, .. } = Asked::read(request)?;
        if let Stamp { signature: Some(signature) } = Stamp::read(&request.object, &person, request.is_dry_run())? {
            let gate = self.authority.gate(namespace, said.gate.as_str()).await?;
            let Some(gate) = gate else { return Err(Case { namespace, name, person: &person, said: &said }.no_gate()) };
            let keys = self.keys(&signature).await?;
            keys.verify(&said.word(namespace, &gate.class, person), &signature).map_err(|error| unbelieved(&error))?;
        }
        Ok(Allowed::default())
    }

    /// Keys with that of this signature among them. Another replica may have signed, with a key that this one has not seen yet.
    async fn keys(&self, signature: &Signature) -> Result<PublicKeys, Refused> {
        if let Ok(held) = self.signing.held()
            && held.keys.knows(signature.key())
        {
            return Ok(held.keys.clone());
        }
        let keys = self.authority.keys().await?;
        if keys.knows(signature.key()) { Ok(keys) } else { Err(unbelieved(&SignatureError::UnknownKey(signature.key().clone()))) }
    }
}

impl<'r> Asked<'r> {
    fn read(request: &'r Request) -> Result<Self, Refused> {
        let bad = |message: String| Err(Refused::new(Reason::BadRequest, message));
        let resource = &request.resource;
        let sub = request.sub_resource.as_deref().unwrap_or_default();
        if (resource.group.as_str(), resource.resource.as_str(), sub) != (GROUP, RESOURCE, "") {
            return bad(format!(
                "this endpoint judges {RESOURCE}.{GROUP}, not {}. Correct the webhook configuration's rules",
                named(request)
            ));
        }
        if request.operation != "CREATE" {
            let operation = &request.operation;
            return bad(format!(
                "this endpoint judges decisions as they are made, not {operation:.20}. Correct the webhook configuration's rules"
            ));
        }
        let Some(namespace) = request.namespace.as_deref().filter(|name| !name.is_empty()) else {
            return bad("the AdmissionReview's request has no namespace".to_owned());
        };
        let user = User::read(&request.user_info)?;
        let person = user.person()?;
        let name = request.shown_name();
        let said = Said::read(&request.object, name)?;
        Ok(Self { request, namespace, name, user, person, said })
    }
}
