package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// mutatingWebhookConfiguration names servers that are asked about requests. Defaults and rules stand in webhook.go.
var mutatingWebhookConfiguration = resource.Definition[*admissionregistrationv1.MutatingWebhookConfiguration]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "MutatingWebhookConfiguration", AnyFinalizer: true, Plural: "mutatingwebhookconfigurations",
	Categories: []string{"api-extensions"}, AllowUnconditionalUpdate: true,
	GenerationOf: func(c *admissionregistrationv1.MutatingWebhookConfiguration) any { return c.Webhooks },
	Default: func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
		for i := range c.Webhooks {
			defaultWebhook(ofMutating(&c.Webhooks[i]))
		}
	},
	Validate: func(c *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
		var webhooks []webhook
		for i := range c.Webhooks {
			webhooks = append(webhooks, ofMutating(&c.Webhooks[i]))
		}
		return validateWebhooks(webhooks)
	},
	Columns: resource.Columns(resource.Column[*admissionregistrationv1.MutatingWebhookConfiguration]{
		Name: "Webhooks", Type: "integer", Description: "Webhooks indicates the number of webhooks registered in this configuration",
		Get: func(c *admissionregistrationv1.MutatingWebhookConfiguration) any { return int64(len(c.Webhooks)) },
	}),
}
