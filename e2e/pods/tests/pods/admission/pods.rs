//! Every golden pod goes through a real API server: alone with our webhook, and with a hostile one before and after it.

use anyhow::{Context as _, Result, bail, ensure};
use kybernis_pods::{World, said, soon};
use serde_json::{Value, json};

use super::golden::{Expected, sentences};
use super::hostile::{DOES, Hostile, WAS};
use super::stage::{Guest, INITS, Stage, copied, is_served, pod};
use super::subset::differences;
use super::{Answer, Run, submit};
use crate::scenario::{Told, installed};

/// Golden pods at least.
const CASES_MIN: usize = 70;
/// Pods that are refused before the golden webhook's turn, or after it, in these words: by the API server itself, and, where the mutating
/// webhook leaves ours where others have moved them, by the validating one.
const REFUSED_ELSEWHERE: [(&str, &str); 2] = [
    ("pod-resources-bad", "quantities must match the regular expression"),
    ("again-reordered", "the init container migrate would run before Kybernis has redirected its connections"),
];
/// Pods that are made for real, with images that are there.
const RUN: [&str; 6] = ["deployment", "init-containers", "native-sidecars", "pod-security-cooperative", "read-only-root", "strict"];

/// How the API server's answer was as it had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Injected,
    Untouched,
    /// By the golden words.
    Refused,
    /// For what the hostile webhook has put before the redirection.
    TooEarly,
}

pub(crate) fn golden(world: &World) -> Result<Told> {
    installed(world)?;
    let stage = Stage::set(world)?;
    let space = world.space("hostile")?;
    let hostile = Hostile::start(world, &space)?;
    stage.wait_for_the_hostile()?;
    let guests = stage.guests()?;
    ensure!(guests.len() >= CASES_MIN, "only {} golden pods", guests.len());

    let mut wrong = Vec::new();
    let mut round = |what: &str, judge: &dyn Fn(&Guest) -> Result<Option<Verdict>>| {
        let mut verdicts = Vec::new();
        for guest in &guests {
            match judge(guest) {
                Ok(verdict) => verdicts.extend(verdict),
                Err(error) => wrong.push(format!("{what}, {}: {error:#}", guest.name)),
            }
        }
        move |verdict| verdicts.iter().filter(|other| **other == verdict).count()
    };
    let plain = round("by ours alone", &|guest| stage.alone(guest));
    let prepended = round("an init container before ours", &|guest| stage.prepended(guest));
    let surrounded = round("a webhook before ours and one after it", &|guest| stage.surrounded(guest));
    if let Err(error) = stage.at_odds() {
        wrong.push(format!("{error:#}"));
    }
    if let Err(error) = stage.run() {
        wrong.push(format!("made for real: {error:#}"));
    }
    drop(hostile);
    ensure!(wrong.is_empty(), "{} of the API server's answers are not golden:\n{}", wrong.len(), wrong.join("\n"));
    let told = format!(
        "as the golden files say {} injected, {} refused, {} left alone; an init container put before ours: {} refused for it, {} \
         Cooperative ones let in; between two webhooks {} injected; {} ran",
        plain(Verdict::Injected),
        plain(Verdict::Refused),
        plain(Verdict::Untouched),
        prepended(Verdict::TooEarly),
        prepended(Verdict::Injected),
        surrounded(Verdict::Injected),
        RUN.len() + 1
    );
    Ok(Told::new(&format!("{} golden pods to a real API server, alone and beside a hostile webhook", guests.len()), told))
}

impl Stage<'_> {
    fn wait_for_the_hostile(&self) -> Result<()> {
        let probe = pod(json!({"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "app", "image": "probe:1"}]}}));
        soon("API servers call the hostile webhook", || {
            let answer = submit(self.world, self.plain()?, &probe, Run::Dry)?;
            let Answer::Taken { pod, .. } = answer else { bail!("{answer:?}") };
            Ok((pod["metadata"]["annotations"][WAS] == "here").then_some(()))
        })
    }

    /// With no deed of the hostile webhook's.
    fn alone(&self, guest: &Guest) -> Result<Option<Verdict>> {
        let answer = submit(self.world, &guest.namespace, &guest.pod, Run::Dry)?;
        if let Some((_, words)) = REFUSED_ELSEWHERE.iter().find(|(name, _)| *name == guest.name) {
            let Answer::Refused(why) = &answer else { bail!("it is let in") };
            ensure!(why.contains(words), "refused, and by other words: {why}");
            return Ok(Some(Verdict::Refused));
        }
        // Of the cluster's own namespaces nobody asks us.
        if let (Answer::Taken { warnings, .. }, Ok(_)) = (&answer, self.cases[&guest.name].labels()) {
            // Long ones come in pieces.
            let heard = warnings.replace(" …\nWarning: ", " ");
            for warning in self.cases[&guest.name].warnings() {
                ensure!(heard.contains(warning), "the warning {warning:?} is not among {heard:?}");
            }
        }
        match (&guest.expected, answer) {
            (Expected::Refused(sentences), Answer::Refused(why)) => {
                let told = told(&why);
                ensure!(&told == sentences, "refused for {told:#?}\nand not {sentences:#?}\nin {why}");
                Ok(Some(Verdict::Refused))
            }
            (Expected::Refused(_), Answer::Taken { .. }) => bail!("it is let in"),
            (_, Answer::Refused(why)) => bail!("it is refused: {why}"),
            (expected, Answer::Taken { pod, .. }) => {
                guest.is_as(expected, &pod)?;
                if guest.is_injected() {
                    // Made again from what was stored.
                    let copy = copied(pod);
                    let again = submit(self.world, &guest.namespace, &copy, Run::Dry)?;
                    let Answer::Taken { pod, .. } = again else { bail!("a second time: {again:?}") };
                    let places = differences(&copy, &pod);
                    ensure!(places.is_empty(), "a second pass changes it: {places:#?}");
                }
                Ok(Some(if guest.is_injected() { Verdict::Injected } else { Verdict::Untouched }))
            }
        }
    }

    /// Called after ours, it puts an init container before all others.
    fn prepended(&self, guest: &Guest) -> Result<Option<Verdict>> {
        if !guest.is_watched || REFUSED_ELSEWHERE.iter().any(|(name, _)| *name == guest.name) {
            return Ok(None);
        }
        let answer = submit(self.world, &guest.namespace, &doing(&guest.pod, "prepends"), Run::Dry)?;
        match (&guest.expected, answer) {
            (Expected::Refused(sentences), Answer::Refused(why)) => {
                // Where it gets as far as the end, all that is wrong has moved by one.
                let told = rules(&told(&why));
                ensure!(rules(sentences).iter().all(|rule| told.contains(rule)), "refused for {told:#?}\nand not {sentences:#?}");
                Ok(Some(Verdict::Refused))
            }
            (Expected::Refused(_), Answer::Taken { .. }) => bail!("it is let in"),
            (_, Answer::Refused(why)) => {
                ensure!(guest.is_injected() && guest.redirects()?, "it is refused: {why}");
                let told = told(&why);
                ensure!(told.contains(&too_early()), "refused for {told:#?}");
                Ok(Some(Verdict::TooEarly))
            }
            (expected, Answer::Taken { mut pod, .. }) => {
                ensure!(!guest.is_injected() || !guest.redirects()?, "something runs before the redirection");
                let early = taken_out(&mut pod, INITS, "early", 0)?;
                guest.is_as(expected, &pod)?;
                if guest.is_injected() {
                    ensure!(is_served(&early), "what was put before ours has not all of ours: {early}");
                    return Ok(Some(Verdict::Injected));
                }
                Ok(Some(Verdict::Untouched))
            }
        }
    }

    /// Called before ours it puts an init container before all others, and after ours a container after them.
    fn surrounded(&self, guest: &Guest) -> Result<Option<Verdict>> {
        let (Expected::Injected(_), false) = (&guest.expected, guest.is_again) else { return Ok(None) };
        let answer = submit(self.world, &guest.namespace, &doing(&guest.pod, "surrounds"), Run::Dry)?;
        let Answer::Taken { mut pod, .. } = answer else { bail!("{answer:?}") };
        // Ours come first, whoever was called before.
        let place = if guest.redirects()? { 2 } else { 1 };
        let early = taken_out(&mut pod, INITS, "early", place)?;
        let last = pod["spec"]["containers"].as_array().map_or(0, Vec::len) - 1;
        let late = taken_out(&mut pod, "containers", "late", last)?;
        ensure!(is_served(&early) && is_served(&late), "what others have added has not all of ours: {early} {late}");
        guest.is_as(&guest.expected, &pod)?;
        Ok(Some(Verdict::Injected))
    }

    /// What else a webhook may do to a pod that ours has seen.
    fn at_odds(&self) -> Result<()> {
        let early = too_early();
        for (does, mode, refused) in [
            ("insists", "Redirect", Some(early.as_str())),
            ("insists", "Strict", Some(early.as_str())),
            ("insists", "Cooperative", None),
            ("swaps", "Redirect", Some("kybernis-capture stands after kybernis-proxy, and must run before it")),
            ("strips-once", "Redirect", None),
            ("strips", "Redirect", Some("lacks HTTP_PROXY, which Kybernis injects")),
            ("strips", "Cooperative", Some("lacks HTTP_PROXY, which Kybernis injects")),
            ("overrides", "Cooperative", Some("the container app sets HTTP_PROXY to another value, and Kybernis must set it itself")),
            ("exchanges", "Cooperative", Some("kybernis-proxy is not as Kybernis injects it")),
        ] {
            let answer = submit(self.world, self.plain()?, &doing(&modest(mode), does), Run::Dry)?;
            match (refused, &answer) {
                (Some(words), Answer::Refused(why)) if why.contains(words) => {}
                (None, Answer::Taken { pod, .. }) => {
                    let app = &pod["spec"]["containers"][0];
                    ensure!(is_served(app), "{does} under {mode}: the app has not all of ours: {app}");
                }
                _ => bail!("{does} under {mode}: {answer:?}"),
            }
        }
        Ok(())
    }

    /// Some are made for real, and one more whose init container somebody has put before ours.
    fn run(&self) -> Result<()> {
        let mut made = Vec::new();
        let mut make = |name: &str, namespace: &str, pod: &Value| {
            let answer = submit(self.world, namespace, pod, Run::Real)?;
            ensure!(matches!(answer, Answer::Taken { .. }), "{name}: {answer:?}");
            made.push((name.to_owned(), namespace.to_owned()));
            Ok(())
        };
        for name in RUN {
            let guest = self.guest(self.cases.get(name).context("no such case")?)?;
            make(name, &guest.namespace, &runnable(name, &guest.pod))?;
        }
        make("early", self.plain()?, &runnable("early", &doing(&modest("Cooperative"), "prepends")))?;
        for (name, namespace) in &made {
            let pod = format!("pod/{name}");
            said(&mut self.world.kubectl(["wait", &pod, "--namespace", namespace, "--for=condition=Ready", "--timeout=180s"]))?;
        }
        Ok(())
    }
}

/// One that every mode takes.
fn modest(mode: &str) -> Value {
    let security = json!({"runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let annotations = json!({"kybernis.io/inject": "true", "kybernis.io/capture": mode});
    let app = json!({"name": "app", "image": "trader:1", "securityContext": security});
    pod(json!({"metadata": {"name": "trader", "annotations": annotations}, "spec": {"containers": [app]}}))
}

fn doing(pod: &Value, what: &str) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["labels"][DOES] = json!(what);
    pod
}

/// The same with programs that are there, by a name of its own.
fn runnable(name: &str, given: &Value) -> Value {
    let mut pod = given.clone();
    pod["metadata"]["name"] = json!(name);
    // Nobody's: what owns it is not there, and it would be collected.
    let _ = pod["metadata"].as_object_mut().and_then(|metadata| metadata.remove("ownerReferences"));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    for list in [INITS, "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let ends = list == INITS && container["restartPolicy"].is_null();
            container["image"] = json!(kybernis_cluster::AGENTS_IMAGE);
            container["imagePullPolicy"] = json!("Never");
            container["command"] = json!(["python3", "-c", if ends { "pass" } else { "import signal; signal.pause()" }]);
        }
    }
    pod
}

/// The sentences of a refusal in what kubectl says.
fn told(why: &str) -> Vec<String> {
    let said = why.split_once("denied the request: ").map_or(why, |(_, said)| said);
    sentences(said)
}

/// Without their places.
fn rules(sentences: &[String]) -> Vec<String> {
    sentences.iter().map(|sentence| sentence.split_once(": ").map_or(sentence.as_str(), |(_, rule)| rule).to_owned()).collect()
}

fn too_early() -> String {
    "spec.initContainers[0]: the init container early would run before Kybernis has redirected its connections. Let whatever puts it \
     there put it after kybernis-proxy, or choose Cooperative."
        .to_owned()
}

/// Takes somebody's container out of a pod, in which it must stand at this place.
fn taken_out(pod: &mut Value, list: &str, name: &str, place: usize) -> Result<Value> {
    let items = pod["spec"][list].as_array_mut().context("no such list")?;
    let found = items.iter().position(|item| item["name"] == name);
    ensure!(found == Some(place), "{name} stands at {found:?} and not at {place}");
    Ok(items.remove(place))
}
