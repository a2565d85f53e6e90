//! [`Chart`]: what `helm template` makes of the chart, after an API server's checks.

use e2e::{Scratch, run, workspace};
use serde_json::{Map, Value};

use crate::tools::{helm, tool};

/// The objects of one release, in the order of helm.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) objects: Vec<Value>,
}

impl Chart {
    /// Renders the chart with some values (YAML) as the release `fl`.
    ///
    /// # Errors
    /// Helm does not take the values, or an API server would not take an object.
    pub(crate) fn render(values: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let values = scratch.write("values.yaml", values)?;
        let mut template = helm(scratch.path());
        template.args(["template", "fl"]).arg(workspace("helm/firstlight")).arg("--values").arg(values);
        let rendered = scratch.write("rendered.yaml", &run(&mut template)?)?;
        let lines = run(tool("kubeschema").arg(rendered))?;
        let objects = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { objects })
    }

    /// Returns the objects of a kind.
    pub(crate) fn kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == *kind)
    }

    /// Returns the object of a kind and a name.
    pub(crate) fn object(&self, kind: &str, name: &str) -> &Value {
        let mut of_kind = self.kind(kind);
        of_kind.find(|object| object["metadata"]["name"] == *name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Returns what makes pods: the object and the template in it.
    pub(crate) fn templates(&self) -> impl Iterator<Item = (&Value, &Value)> {
        let template = |object: &Value| object["spec"].get("template").is_some();
        self.objects.iter().filter(move |object| template(object)).map(|object| (object, &object["spec"]["template"]))
    }

    /// Returns the components whose pods a label selector selects, in order.
    pub(crate) fn selected(&self, selector: &Value) -> Vec<String> {
        let labels = |template: &Value| template["metadata"]["labels"].clone();
        let selected =
            self.templates().map(|(_, template)| labels(template)).filter(|labels| selects(selector, labels));
        let mut components: Vec<_> = selected.map(|labels| text(&labels["app.kubernetes.io/component"])).collect();
        components.sort();
        components
    }
}

/// Tells whether a label selector, or the plain labels of a Service's, selects `labels`.
fn selects(selector: &Value, labels: &Value) -> bool {
    let empty = Map::new();
    let is_plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let wanted = if is_plain { selector } else { &selector["matchLabels"] };
    let equal = wanted.as_object().unwrap_or(&empty).iter().all(|(name, value)| labels.get(name) == Some(value));
    let expressions = selector["matchExpressions"].as_array().map_or(&[][..], Vec::as_slice);
    equal
        && expressions.iter().all(|expression| {
            assert_eq!(expression["operator"], "In", "the test knows no other");
            let label = labels.get(text(&expression["key"]));
            label.is_some_and(|label| list(&expression["values"]).contains(label))
        })
}

/// Returns a string of an object.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// Returns a list of an object.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// Returns the one container of a pod template.
pub(crate) fn container(template: &Value) -> &Value {
    let containers = list(&template["spec"]["containers"]);
    assert_eq!(containers.len(), 1);
    &containers[0]
}
