"""Write docs/configuration.md from the schema of the campaign."""

from pathlib import Path

from raydistill.config.reference import configuration_reference
from raydistill.config.schema import CampaignConfig

page = Path(__file__).with_name("configuration.md")
page.write_text(configuration_reference(CampaignConfig.model_json_schema()), encoding="utf-8")
