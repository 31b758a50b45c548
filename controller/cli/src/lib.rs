//! `cardeactl`: what an admin types, said to a controller over its admin socket.
//!
//! It holds no state and takes no decision: it reads rows and shows them, and it signs changes with
//! the admin's key. Everything that it may do, the admin API may refuse.
#![forbid(unsafe_code)]

pub mod args;
pub mod config;
pub mod connection;
pub mod console;
pub mod run;

mod confirm;
mod folder;
mod pages;
mod table;
mod text;
mod view;
