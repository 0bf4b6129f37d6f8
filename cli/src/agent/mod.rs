//! Load from many machines. Each runs an agent (`server`), and one coordinator deals the users out, lets all begin
//! at one instant and puts together what they measured (`crowd`). Control only: no agent asks the coordinator for
//! anything while it makes load.

mod client;
mod clock;
mod crowd;
mod follow;
mod http;
mod judging;
mod protocol;
mod run;
mod server;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use client::AgentError;
pub(crate) use crowd::{AgentRun, Conducted, Crowd};
pub(crate) use server::{Settings, serve};
pub(crate) use token::Token;
