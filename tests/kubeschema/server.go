package main

import (
	"errors"
	"fmt"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	sigsjson "sigs.k8s.io/json"
)

// namespace is where objects that name none are installed.
const namespace = "default"

// check tells why the server would refuse an object, if it would.
func check(text []byte) error {
	var kind runtime.TypeMeta
	if err := sigsjson.UnmarshalCaseSensitivePreserveInts(text, &kind); err != nil {
		return err
	}
	if kind.GroupVersionKind() == monitoring.SchemeGroupVersion.WithKind(monitoring.ServiceMonitorsKind) {
		return checkMonitor(text)
	}
	// This fills in the defaults too.
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	object, err := runtime.Decode(codecs.UniversalDecoder(), text)
	if err != nil {
		return err
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	if accessor.GetNamespace() == "" {
		accessor.SetNamespace(namespace)
	}
	invalid, err := validate(object)
	if err != nil {
		return err
	}
	return errors.Join(invalid.ToAggregate(), checkSecurity(object))
}

// checkMonitor checks the one kind that is not Kubernetes' own.
func checkMonitor(text []byte) error {
	var monitor monitoring.ServiceMonitor
	unknown, err := sigsjson.UnmarshalStrict(text, &monitor)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return unknown[0]
	}
	if monitor.Name == "" || len(monitor.Spec.Endpoints) == 0 {
		return fmt.Errorf("it needs a name and an endpoint")
	}
	return nil
}
