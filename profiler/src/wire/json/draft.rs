//! What is known of a message while it is read.

use super::token::{Key, Token};
use crate::wire::contents::{Capture, Raw, redacted, redacted_text};
use crate::wire::message::{Id, Kind, Message};
use crate::wire::shape::shape;

/// A message while it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Draft {
    /// `jsonrpc` is "2.0": log lines are JSON too.
    pub(super) has_version: bool,
    pub(super) has_result: bool,
    pub(super) has_error: bool,
    pub(super) id: Option<Id>,
    pub(super) method: Option<Box<str>>,
    name: Option<Box<str>>,
    uri: Option<Box<str>>,
    cancelled: Option<Id>,
    error_code: Option<i64>,
    error_message: Option<Box<str>>,
    is_tool_error: bool,
    result_type: Option<Box<str>>,
    request_state: Option<Box<str>>,
    task: Option<Box<str>>,
    trace_parent: Option<Box<str>>,
    /// The first text of a result: its error, if it is one.
    first_text: Option<Box<str>>,
    arguments: Option<Raw>,
    result: Option<Raw>,
}

impl Draft {
    /// Takes a value by the keys that lead to it, outermost first.
    pub(super) fn take(&mut self, path: &[Key], token: &Token) {
        match *path {
            [Key::Version] => self.has_version = token.is_text && token.bytes == b"2.0",
            [Key::Id] => self.id = token.id(),
            [Key::Method] => self.method = token.text(),
            [Key::Params, Key::Name] => self.name = token.text(),
            [Key::Params, Key::Uri] => self.uri = token.text(),
            [Key::Params, Key::RequestId] => self.cancelled = token.id(),
            [Key::Params, Key::Meta, Key::TraceParent] => self.trace_parent = token.text(),
            [Key::Params | Key::Result, Key::TaskId] | [Key::Result, Key::Task, Key::TaskId] => {
                self.task = token.text();
            }
            [Key::Params | Key::Result, Key::RequestState] => self.request_state = token.text(),
            [Key::Error, Key::Code] => self.error_code = token.number(),
            [Key::Error, Key::Message] => self.error_message = token.text(),
            [Key::Result, Key::IsError] => self.is_tool_error = !token.is_text && token.bytes == b"true",
            [Key::Result, Key::Content, Key::Other, Key::Text] if self.first_text.is_none() => {
                self.first_text = token.text();
            }
            [Key::Result, Key::ResultType] => self.result_type = token.text(),
            _ => {}
        }
    }

    /// A value of whatever sort starts under a key of the message itself.
    pub(super) fn note(&mut self, key: Key) {
        match key {
            Key::Result => self.has_result = true,
            Key::Error => self.has_error = true,
            _ => {}
        }
    }

    /// Arguments or a result were read, as far as they are kept.
    pub(super) fn contents(&mut self, raw: Raw) {
        let place = if raw.is_result { &mut self.result } else { &mut self.arguments };
        *place = Some(raw);
    }

    /// The memory that what is kept of arguments and results takes, in bytes.
    pub(super) fn held_contents(&self) -> usize {
        [&self.arguments, &self.result].into_iter().flatten().map(Raw::held_bytes).sum()
    }

    /// The message, if it is one. Of what it says, words that could be anybody's stay in it only when contents are kept.
    pub(super) fn message(self, capture: Capture) -> Option<Message> {
        if !self.has_version {
            return None;
        }
        let kind = match (&self.method, &self.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) if self.has_error => Kind::Error,
            (None, Some(_)) if self.has_result => Kind::Result,
            _ => return None,
        };
        let said = if self.is_tool_error { self.first_text } else { self.error_message };
        let said = said.map(|text| {
            if capture == Capture::default() { shape(&text) } else { redacted_text(&text) }.into()
        });
        Some(Message {
            kind,
            arguments: self.arguments.map(|raw| redacted(&raw).into()),
            result: self.result.map(|raw| redacted(&raw).into()),
            id: self.id,
            method: self.method,
            name: self.name.or(self.uri),
            cancelled: self.cancelled,
            error_code: self.error_code,
            error_message: said,
            is_tool_error: self.is_tool_error,
            result_type: self.result_type,
            request_state: self.request_state,
            task: self.task,
            trace_parent: self.trace_parent,
        })
    }
}
