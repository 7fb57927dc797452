package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/resource"
)

// validatingWebhookConfiguration names servers that are asked about requests. Defaults and rules stand in webhook.go.
var validatingWebhookConfiguration = resource.Definition[*admissionregistrationv1.ValidatingWebhookConfiguration]{
	GroupVersion: admissionregistrationv1.SchemeGroupVersion, Kind: "ValidatingWebhookConfiguration", AnyFinalizer: true, Plural: "validatingwebhookconfigurations",
	Categories: []string{"api-extensions"}, AllowUnconditionalUpdate: true,
	GenerationOf: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) any { return c.Webhooks },
	Default: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
		for i := range c.Webhooks {
			defaultWebhook(ofValidating(&c.Webhooks[i]))
		}
	},
	Validate: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
		var webhooks []webhook
		for i := range c.Webhooks {
			webhooks = append(webhooks, ofValidating(&c.Webhooks[i]))
		}
		return validateWebhooks(webhooks)
	},
	Columns: resource.Columns(resource.Column[*admissionregistrationv1.ValidatingWebhookConfiguration]{
		Name: "Webhooks", Type: "integer", Description: "Webhooks indicates the number of webhooks registered in this configuration",
		Get: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) any { return int64(len(c.Webhooks)) },
	}),
}
