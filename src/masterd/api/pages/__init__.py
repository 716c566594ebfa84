"""The pages that every masterd serves to web browsers. They hold no data, and load nothing from elsewhere."""
