//! Policies sorted by what their scope names, so that a decision evaluates only those that could
//! match: a policy about another app, user or group is never looked at.
//!
//! A scope names at most one principal and one resource, and either the entity itself or something
//! it is in. So each policy lies in exactly one bucket, and a decision takes the buckets of
//! (anything, the app, its site) × (anybody, the user, each group of the user). The scope of every
//! policy in them matches.

use std::{collections::BTreeMap, sync::Arc};

use super::{needs::Needs, rule::Rule};

/// What a scope constraint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Nothing in particular.
    Any,
    /// The entity itself, by id.
    Itself(String),
    /// What the entity is in, by id.
    Parent(String),
}

/// Values under the things that scopes name.
#[derive(Debug)]
pub(super) struct Keyed<T> {
    any: T,
    itself: BTreeMap<String, T>,
    parent: BTreeMap<String, T>,
}

/// The policies of one action: by resource, then by principal.
#[derive(Debug, Default)]
pub(super) struct Index(Keyed<Keyed<Bucket>>);

/// Policies whose scopes name the same things.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// The policies.
    rules: Vec<Arc<Rule>>,
    /// What their conditions look at.
    needs: Needs,
}

/// One side of a request: an entity's id and the ids of what it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lineage<'a, I> {
    pub(super) id: &'a str,
    pub(super) parents: I,
}

impl<T: Default> Default for Keyed<T> {
    fn default() -> Self {
        Self {
            any: T::default(),
            itself: BTreeMap::new(),
            parent: BTreeMap::new(),
        }
    }
}

impl<T: Default> Keyed<T> {
    fn entry(&mut self, scope: Scope) -> &mut T {
        match scope {
            Scope::Any => &mut self.any,
            Scope::Itself(id) => self.itself.entry(id).or_default(),
            Scope::Parent(id) => self.parent.entry(id).or_default(),
        }
    }

    fn matching<'t>(
        &'t self,
        lineage: Lineage<'_, impl Iterator<Item = impl AsRef<str>>>,
        mut visit: impl FnMut(&'t T),
    ) {
        visit(&self.any);
        if let Some(found) = self.itself.get(lineage.id) {
            visit(found);
        }
        if self.parent.is_empty() {
            return;
        }
        for parent in lineage.parents {
            if let Some(found) = self.parent.get(parent.as_ref()) {
                visit(found);
            }
        }
    }
}

impl Bucket {
    pub(super) fn add(&mut self, rule: Arc<Rule>) {
        self.needs.merge(&rule.needs);
        self.rules.push(rule);
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|rule| &**rule)
    }

    pub(super) const fn needs(&self) -> &Needs {
        &self.needs
    }
}

impl Index {
    /// The bucket of a scope, made when it is not there.
    pub(super) fn bucket(&mut self, resource: Scope, principal: Scope) -> &mut Bucket {
        self.0.entry(resource).entry(principal)
    }

    /// Adds every bucket with a policy that could match.
    pub(super) fn matching<'t, P, R>(
        &'t self,
        principal: Lineage<'_, P>,
        resource: Lineage<'_, R>,
        out: &mut Vec<&'t Bucket>,
    ) where
        P: Iterator<Item: AsRef<str>> + Clone,
        R: Iterator<Item: AsRef<str>>,
    {
        self.0.matching(resource, |by_principal| {
            by_principal.matching(principal.clone(), |bucket| {
                if !bucket.rules.is_empty() {
                    out.push(bucket);
                }
            });
        });
    }
}
