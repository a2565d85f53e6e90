package main

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
)

// validate runs the server's own checks for an object. A kind that it does not know is an error: nothing goes unchecked.
func validate(object runtime.Object) (field.ErrorList, error) {
	switch object := object.(type) {
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(object, podOptions(&object.Spec.Template)), nil
	case *apps.StatefulSet:
		return appsvalidation.ValidateStatefulSet(object, podOptions(&object.Spec.Template)), nil
	case *batch.Job:
		return validateJob(object), nil
	case *core.ConfigMap:
		return corevalidation.ValidateConfigMap(object), nil
	case *core.Service:
		return validateService(object), nil
	case *core.ServiceAccount:
		return corevalidation.ValidateServiceAccount(object), nil
	case *networking.NetworkPolicy:
		return networkingvalidation.ValidateNetworkPolicy(object, networkingvalidation.NetworkPolicyValidationOptions{}), nil
	case *policy.PodDisruptionBudget:
		return policyvalidation.ValidatePodDisruptionBudget(object, policyvalidation.PodDisruptionBudgetValidationOptions{}), nil
	}
	return nil, fmt.Errorf("kubeschema does not check objects of its kind yet (%T)", object)
}

func podOptions(template *core.PodTemplateSpec) corevalidation.PodValidationOptions {
	return pod.GetValidationOptionsFromPodTemplate(template, nil)
}

func validateJob(job *batch.Job) field.ErrorList {
	// The server makes the selector of a Job that has none.
	if job.Spec.Selector == nil {
		manual := true
		job.Spec.ManualSelector = &manual
		job.Spec.Selector = &metav1.LabelSelector{MatchLabels: job.Spec.Template.Labels}
	}
	options := batchvalidation.JobValidationOptions{PodValidationOptions: podOptions(&job.Spec.Template)}
	return batchvalidation.ValidateJob(job, options)
}

func validateService(service *core.Service) field.ErrorList {
	// The server does this between defaults and checks.
	spec := &service.Spec
	if spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if spec.Type == core.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal {
		spec.HealthCheckNodePort = 32000
	}
	return corevalidation.ValidateServiceCreate(service)
}
