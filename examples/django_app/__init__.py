"""The example on Django: a project of one application.

python django_app/manage.py migrate
gunicorn --workers 2 django_app.wsgi:application
"""
