//! Which process's host is sampled: the one that serves, where it is on this host and can be told.

use crate::deploy::Deployment;
use crate::host::listener::{Holder, is_of_this_host, process_listening};
use crate::load::Target;
use crate::profile::{ProfileError, flag_error};
use crate::report::Chosen;
use crate::root::Root;

/// The process whose host is sampled, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) pid: u32,
    pub(super) chosen: Chosen,
    pub(super) why: String,
}

impl Subject {
    /// The process that the user named.
    ///
    /// # Errors
    /// It does not run.
    pub(super) fn named(pid: u32) -> Result<Self, ProfileError> {
        if !Root::host().path(format!("/proc/{pid}")).exists() {
            let message = format!("process {pid} does not exist");
            return Err(flag_error("--pid", message, "name one that runs, such as `pidof scalekit` prints"));
        }
        Ok(Self { pid, chosen: Chosen::Named, why: "named with --pid".to_owned() })
    }

    /// The API of a deployment on this host.
    pub(super) fn deployed(deployment: &Deployment) -> Option<Self> {
        let api = deployment.roles.first()?;
        let process = deployment
            .processes
            .iter()
            .map(|process| &process.identity)
            .find(|process| process.name == api.name)?;
        let why = format!("{} of the deployment {}", process.name, deployment.profile);
        Some(Self { pid: u32::try_from(process.pid).ok()?, chosen: Chosen::Deployed, why })
    }

    /// The process that listens where the load goes, if that is on this host; else this one.
    pub(super) fn loaded(target: &Target) -> Self {
        let here = target.addresses.iter().find(|address| is_of_this_host(address.ip()));
        let found = match here {
            None => Err(format!("{} is another host", target.authority)),
            Some(address) => process_listening(*address).map(|holder| (address, holder)),
        };
        match found {
            Ok((address, Holder { pid, of: 1 })) => {
                Self { pid, chosen: Chosen::Listening, why: format!("it listens on {address}") }
            }
            Ok((address, Holder { pid, of })) => Self {
                pid,
                chosen: Chosen::Listening,
                why: format!("one of {of} processes that listen on {address}; --pid names another"),
            },
            Err(reason) => Self {
                pid: std::process::id(),
                chosen: Chosen::Generator,
                why: format!(
                    "the load generator itself, and of the service's host nothing is known: {reason}; --pid names its \
                     process, if it is here"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    #[test]
    fn the_process_behind_an_address_of_this_host_is_found_and_of_another_host_it_is_said() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let own = Subject::loaded(&target(&url));
        assert_eq!(own.chosen, Chosen::Listening, "{}", own.why);
        drop(listener);
        let gone = Subject::loaded(&target(&url));
        assert_eq!((gone.chosen, gone.pid), (Chosen::Generator, std::process::id()));
        assert!(gone.why.contains("nobody listens on"), "{}", gone.why);
        // TEST-NET-1, which nobody has.
        let far = Subject::loaded(&target("http://192.0.2.1/"));
        assert_eq!(far.chosen, Chosen::Generator);
        assert!(far.why.contains("192.0.2.1 is another host"), "{}", far.why);
    }

    #[test]
    fn a_process_that_does_not_run_cannot_be_named() {
        assert_eq!(Subject::named(std::process::id()).unwrap().chosen, Chosen::Named);
        let error = Subject::named(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("--pid") && error.contains(&u32::MAX.to_string()), "{error}");
    }
}
